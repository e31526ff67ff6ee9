"""The command line of certify.py: its arguments, their defaults, and what goes together."""

from __future__ import annotations

import argparse
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import fields
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse import Namespace

from center_smoothing import DISTANCES
from center_smoothing.attack import AttackBudget
from center_smoothing.budget import COVERAGES
from center_smoothing.margins import METHODS
from center_smoothing.noise_kinds import NOISES, NoiseKind
from center_smoothing.smoothers import DEFAULT_SMOOTHER, SMOOTHERS
from center_smoothing.threats import NORMS
from certification.request import Arguments, Computing
from certification.sigma_map import read_sigma_map
from command_line import argument_types, class_paths, flags
from command_line.argument_types import Parser, count, positive_number, radius
from command_line.flags import package_version
from command_line.named import BUDGETS, check_smoother, distance_name, noise_level

if TYPE_CHECKING:  # they import Lightning, which neither --help nor a wrong argument waits for
    from lightning_modules import BaseModel, LoadedCheckpoint

DEFAULT_H = NOISES["gaussian"].ratios
# A multiple of 255, so that 8-bit images lie on it.
DEFAULT_GRID = 4080
COMPILE = ("off", "default", "reduce-overhead", "max-autotune")
_ATTACK_FLAGS = ("attack_steps", "attack_starts", "attack_samples")
# Arguments that may name a class of models or data.
_NAMES_A_CLASS = re.compile(r"--(model|data|config)\b")
_EPILOG = """examples:
  python certify.py --ckpt runs/latest --h 1 1.5 2 --num-examples 10
  python certify.py --ckpt runs/latest --plan --m 2000 20_000
  python certify.py --from FOLDER --eps-in 0.1 0.7 --eps-out 60
"""


def _parser(*, with_classes: bool) -> Parser:
    """Return the parser of certify.py; without classes it knows nothing of models and data, nor imports them."""
    model: Any = str | None
    data: Any = str | None
    if with_classes:
        from datamodules import ImageDataModule
        from lightning_modules import BaseModel

        model, data = BaseModel | None, ImageDataModule | None
    parser = Parser(
        prog="certify.py",
        usage="certify.py --ckpt CKPT [flags], certify.py --model MODEL [flags] or certify.py --from FOLDER [flags]",
        description="Certify how far the smoothed outputs of a model can move, for each of a number of test examples.",
        epilog=_EPILOG,
        version=package_version(),
        exit_on_error=False,
    )
    ratios, tries = " ".join(f"{ratio:g}" for ratio in DEFAULT_H), AttackBudget()

    add, add_typed, add_choice = parser.add_group("The six to begin with")
    add("--ckpt", type=str | None, help="checkpoint that train.py wrote, or its run folder, such as runs/latest")
    add("--distance", type=distance_name, default="tv", help="between outputs; your own: my_package.my_distance")
    add_typed("--h", radius, nargs="+", help=f"input radii as multiples of sigma; default {ratios}")
    text = "test examples, drawn with the seed, or all"
    add("--num-examples", type=argument_types.num_examples, default=50, help=text)
    add_choice("--budget", BUDGETS, "standard", "sample sizes and failure probabilities by name")
    text = "folder to write; default: certification/ beside the checkpoint's folder; with --from a CSV file, or for "
    add("--out", type=str | None, help=f"{text}the report of several")

    add, add_typed, add_choice = parser.add_group("What to certify")
    text = "pretrained model instead of a checkpoint: FaceDetector, my_package.MyModule, a file; "
    add("--model", type=model, help=f"{text}--model.help FaceDetector shows its arguments")
    text = "in front of the model: a checkpoint that train.py wrote, or as --model my_package.MyDenoiser or a file"
    add("--denoiser", type=str | None, help=text)
    add("--data", type=data, help="data module, e.g. MNIST; default: what the model was trained on")
    add("--seed", type=int, default=0, help="of the choice of examples and of the noise")
    add_typed("--sigma", positive_number, help="noise level, in units of x; default: the checkpoint's")
    add_choice("--smoother", SMOOTHERS, DEFAULT_SMOOTHER, "what of the noisy outputs is certified")
    text = "of means: outputs further from zero are scaled down to it; auto: as training images suggest"
    add("--clip-norm", type=argument_types.clip_norm, help=text)
    add_typed("--output-bound", positive_number, help="of means: no two outputs are further apart, as you know")
    text = "noisy outputs that are aggregated into one, or auto: as the smallest h asks; default 1"
    add("--group", type=argument_types.group, help=text)

    add, add_typed, add_choice = parser.add_group("What to promise")
    text = "input radii (l2 norm, or that of --threat), in units of x; with --h too, sigma = eps_in / h"
    add_typed("--eps-in", radius, nargs="+", help=text)
    add_choice("--coverage", COVERAGES, "pointwise", "each answer by itself, or all at one sigma together")
    add_typed("--alpha1", positive_number, help="failure probability of the smoothed output")
    add_typed("--alpha2", positive_number, help="failure probability of the certificate")

    add, add_typed, add_choice = parser.add_group("Sample sizes")
    add_typed("--n", count, help="ranked outputs, or those of a mean or median")
    add_typed("--m", argument_types.counts, help="certification outputs; several, to compare them with --plan")
    add_typed("--k", count, help="pilot outputs, the candidate centers")
    add_typed("--delta", positive_number, help="margin; default: the least that abstains on at most 1% of inputs")
    text = "stop where more samples cannot lower eps_out by more than this share"
    add_typed("--rtol", positive_number, help=text)
    text = "stop where eps_out is certified to be at most this, or cannot be with --m samples any more"
    add_typed("--eps-out-at-most", radius, help=text)

    add, add_typed, add_choice = parser.add_group("Output")
    add("--plan", action="store_true", help="only say what it costs and can certify; loads no data, writes nothing")
    text = "with --plan: print the n, m, k and delta that fill it: 90s, 30m, 2h"
    add_typed("--time-limit", argument_types.time_span, help=text)
    text = "answer --eps-in or --h, --eps-out or both from a finished folder, no sampling; of several side by side"
    add("--from", type=argument_types.folders, help=text)
    text = "with --from: output radii, in units of the distance, answered by the largest certified input radii"
    add_typed("--eps-out", radius, nargs="+", help=text)

    add, add_typed, add_choice = parser.add_group("Speed")
    add("--batch-size", type=argument_types.batch_size, default="auto", help="noisy copies per call of the model")
    add("--accelerator", type=str, default="auto", help="auto, cpu, gpu or another one of Lightning's")
    add("--devices", type=str, default="1", help="how many, auto for all, or which: 0,2")
    add_typed("--num-nodes", count, default=1, help="how many machines")
    add("--strategy", type=str, default="auto", help="of several processes: ddp or another one of Lightning's")
    add("--precision", type=str, default="32-true", help="of the model: another one is another function")
    add("--fold-batch-norm", type=bool, default=True, help="make it part of the layer before it: faster, same function")
    add("--channels-last", type=bool, default=True, help="memory layout of convolutions: faster on CPUs, same function")
    add_choice("--compile", COMPILE, "off", "torch.compile of the base model")

    add, add_typed, add_choice = parser.end_with("Advanced")
    add("--config", action="config", help="YAML file with any of these arguments; what is typed wins over it")
    add("--trust", action="store_true", help="let configuration files name classes of other packages, and import them")
    text = "discrete: exact noise on a grid, so that rounding cannot make a certificate false; "
    text += "uniform: between -sigma and sigma, for --threat l1"
    add_choice("--noise", ("gaussian", "discrete", "uniform"), "gaussian", text)
    text = "norm of --eps-in; default: that of the noise, l2 for Gaussian noise, l1 for uniform, scaled-l2 with a map"
    add_choice("--threat", NORMS, None, text)
    text = "file with a standard deviation for each number of an input, as a multiple of sigma: .npy, .pt or an image"
    add("--sigma-map", type=str | None, help=text)
    add_typed("--grid", count, help=f"of discrete noise: steps per unit of x; default {DEFAULT_GRID}")
    add_choice("--method", METHODS, None, "paper: the paper's algorithms to the letter")
    add("--audit", action="store_true", help="also check what certificates take for granted; exit code 1 on failures")
    text = "pgd: search each certified ball for an input that moves the smoothed output; exit code 1 if one moves it "
    add_choice("--attack", ("none", "pgd"), "none", f"{text}further than certified")
    add_typed("--attack-steps", count, help=f"of each start of an attack; default {tries.steps}")
    add_typed("--attack-starts", count, help=f"of each attack; default {tries.starts}")
    add_typed("--attack-samples", count, help=f"noisy copies of a step; default {tries.samples}")
    return parser


def parse(args: Sequence[str] | None) -> Arguments:
    """Return the arguments, checked, with instances of the classes that they name."""
    parser = _parser(with_classes=False)
    typed = flags.spelled(sys.argv[1:] if args is None else args, parser)
    given_words = argument_types.files_first(typed)
    joined = argument_types.join_values(argument_types.join_values(given_words, "--m"), "--from", by="\0")
    denoiser_arguments, joined = class_paths.arguments_of("--denoiser", joined)
    words, model, trained = _users_model(joined)
    data = _data_that_arguments_change(words, trained)
    made = model is not None or data is not None
    if made or any(map(_NAMES_A_CLASS.match, words)):
        parser = _parser(with_classes=True)
    parser.set_defaults(data=data)
    try:
        with class_paths.parse_errors():
            options = parser.parse_args(words)
    except argparse.ArgumentError as error:
        if "ImageDataModule is abstract" not in str(error):
            raise
        raise ValueError("--data must name a data module, e.g. PhotoFolder, with the arguments --data.*") from error
    except (AttributeError, KeyError, IndexError, RecursionError) as error:  # of jsonargparse, for absurd files
        raise ValueError(f"--config must be a file with arguments of certify.py by name, got {error!r}") from error
    if model is not None:
        options.model = model
    _check(options, words)
    _check_denoiser(options, words, denoiser_arguments)
    options = parser.instantiate(options)
    derived: dict[str, Any] = {
        "folders": options["from"] or [],
        "trained": trained,
        "denoiser": None if options.denoiser is None else (options.denoiser, denoiser_arguments),
        "grid": (options.grid or DEFAULT_GRID) if options.noise == "discrete" else None,
        "noise": "uniform" if options.noise == "uniform" else "gaussian",
        "sigma_map": None if options.sigma_map is None else read_sigma_map(options.sigma_map),
        "attack": _attack_budget(options),
        "command": shlex.join(["certify.py", *typed]),
        "computing": Computing(**{field.name: options[field.name] for field in fields(Computing)}),
    }
    names = [field.name for field in fields(Arguments)]
    return Arguments(**{name: derived[name] if name in derived else options[name] for name in names})


def _check(options: Namespace, words: Sequence[str]) -> None:
    """Raise ValueError where arguments do not go together."""
    own = options.distance not in DISTANCES
    if own and not (options.trust or options.distance in class_paths.typed_names(words)):
        raise ValueError(
            f"--trust must be given for a configuration file that names the distance {options.distance}: it is none of "
            "this project, and code of whoever wrote it would run"
        )
    given = [f"--{name}" for name in ("ckpt", "model", "from") if options[name] is not None]
    if len(given) > 1 or not (given or options.plan):
        got = " and ".join(given) or "none of them"
        raise ValueError(
            "--ckpt must name a checkpoint that train.py wrote, or --model a pretrained model, or --from a finished "
            f"folder, got {got}"
        )
    _check_planning(options)
    if options.eps_out is not None and options["from"] is None:
        raise ValueError(
            f"--eps-out must be asked of a finished folder, got it with {given[0] if given else '--plan'}: certify "
            f"first, and then ask with --from FOLDER --eps-out {options.eps_out[0]:g}"
        )
    _check_noise(options)
    _check_smoother(options)
    _check_attack(options)
    if options.grid is not None and options.noise != "discrete":
        raise ValueError(f"--grid is of discrete noise: it needs --noise discrete, got {options.noise}")
    if options.rtol is not None and options.eps_out_at_most is not None:
        raise ValueError("--rtol and --eps-out-at-most are two rules for when to stop, got both: take one of them")
    if options.rtol is not None and options.rtol >= 1.0:
        raise ValueError(f"--rtol must lie in (0, 1), such as 0.02, got {options.rtol}")


def _check_denoiser(options: Namespace, words: Sequence[str], arguments: Mapping[str, Any]) -> None:
    """Raise ValueError where a denoiser does not go with the other arguments, or a file names code of its own."""
    if options.denoiser is None:
        if arguments:
            raise ValueError(f"--denoiser must name a class to go with --denoiser.{next(iter(arguments))}, got none")
        return
    if options["from"] is not None:
        raise ValueError(f"--denoiser must be left out with --from: the folder has its own, got {options.denoiser}")
    typed = _peek(words, "--denoiser")[0] == options.denoiser
    if not (typed or options.trust) and class_paths.is_import(options.denoiser):
        raise ValueError(
            f"--trust must be given for a configuration file that names the denoiser {options.denoiser}: code of "
            "whoever wrote it would run"
        )


def _users_model(words: Sequence[str]) -> tuple[list[str], BaseModel | None, LoadedCheckpoint | None]:
    """Return what the parser is to read, the model that --model leads to otherwise, and its checkpoint if it has one.

    The parser itself makes models of classes without weights of ours.
    """
    as_it_is = list(words), None, None
    name, others = _peek(words, "--model")
    if name is None:
        return as_it_is
    from certification.subject import checkpoint_path
    from lightning_modules import BaseModel, NoisyModule, load_own
    from lightning_modules.checkpoint import takes_weights
    from lightning_modules.imported import SUFFIXES, model_in, model_of

    if Path(name).suffix in SUFFIXES and Path(name).is_file():
        return others, model_in(Path(name), trusted="--trust" in words), None
    if not class_paths.is_dotted(name):
        return as_it_is
    found = class_paths.import_by_name(name, "--model")
    if not (isinstance(found, type) and issubclass(found, BaseModel)):
        arguments, rest = class_paths.arguments_of("--model", others)
        return rest, model_of(found, arguments, name=name), None
    weights, others = _peek(others, "--model.weights", "--model.init_args.weights")
    if weights is None or not issubclass(found, NoisyModule) or takes_weights(found, Path(weights)):
        return as_it_is
    arguments, rest = class_paths.arguments_of("--model", others)
    trained = load_own(found, checkpoint_path(weights, "--model.weights"), arguments)
    return rest, trained.model, trained


def _peek(words: Sequence[str], *flags: str) -> tuple[str | None, list[str]]:
    """Return the value of a flag, under any of its names, before the others are parsed; and the other words."""
    peek = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    peek.add_argument(*flags, dest="value")
    found, others = peek.parse_known_args(list(words))
    return found.value, others


def _check_smoother(options: Namespace) -> None:
    """Refuse arguments that mean nothing for the smoother, before anything is loaded."""
    bounds = {"--clip-norm": options.clip_norm, "--output-bound": options.output_bound}
    if options["from"] is None:
        names = ("method", "k", "delta", "rtol", "eps_out_at_most")
        of_centers = {f"--{name.replace('_', '-')}": options[name] for name in names}
        of_centers["--group auto"] = True if options.group == "auto" else None
        of_centers["--time-limit"] = options.time_limit
        check_smoother(
            options.smoother, distance=options.distance, budget=options.budget, bounds=bounds, of_centers=of_centers
        )
    elif options.smoother != DEFAULT_SMOOTHER or any(value is not None for value in bounds.values()):
        raise ValueError("--from takes no --smoother, --clip-norm and --output-bound: the folder has its own")


def _check_attack(options: Namespace) -> None:
    """Raise ValueError where an attack does not go with the other arguments."""
    tries = [name for name in _ATTACK_FLAGS if options[name] is not None]
    if options.attack == "none":
        if tries:
            flag = f"--{tries[0].replace('_', '-')}"
            raise ValueError(f"{flag} is of an attack: it needs --attack pgd, got none")
        return
    if options["from"] is not None or options.plan:
        raise ValueError("--attack goes with a certification: it must be left out with --from and --plan")


def _check_noise(options: Namespace) -> None:
    """Raise ValueError where noise and threat do not go together or with other arguments, before anything is loaded."""
    uniform, has_map = options.noise == "uniform", options.sigma_map is not None
    if options["from"] is not None and (uniform or has_map or options.threat is not None):
        raise ValueError("--from takes no --noise, --threat and --sigma-map: the folder has its own")
    if has_map and options.noise != "gaussian":
        raise ValueError(f"--sigma-map is of Gaussian noise: it must be left out with --noise {options.noise}")
    if options.threat == "scaled-l2" and not has_map:
        raise ValueError("--threat scaled-l2 needs --sigma-map, which changes are divided by; take l2, l1 or linf")
    if not uniform:
        return
    if options.threat not in (None, "l1"):
        raise ValueError(
            f"--threat must be l1 with --noise uniform, got {options.threat}: in other norms its bounds are "
            "larger than those of Gaussian noise; take --noise gaussian"
        )
    if options.smoother == "mean":
        raise ValueError(
            "--noise must be gaussian or discrete with --smoother mean, got uniform: certificates of means rest on the "
            "likelihood ratio of Gaussians; take --smoother center or median"
        )
    if "paper" in (options.method, options.budget):
        raise ValueError("--noise must be gaussian for the paper's algorithms, got uniform: take --method exact")


def _attack_budget(options: Namespace) -> AttackBudget | None:
    """Return what an attack may try; None where there is none."""
    if options.attack == "none":
        return None
    given = {name.removeprefix("attack_"): options[name] for name in _ATTACK_FLAGS}
    return AttackBudget(**{name: value for name, value in given.items() if value is not None})


def _check_planning(options: Namespace) -> None:
    """Raise ValueError where --plan, --time-limit and several --m do not go together."""
    if options.audit and (options["from"] is not None or options.plan):
        raise ValueError("--audit goes with a certification: it must be left out with --from and --plan")
    if options["from"] is not None and options.plan:
        raise ValueError("--plan must be left out with --from, which draws no samples")
    if options.time_limit is not None and not options.plan:
        raise ValueError(
            "--time-limit goes with --plan, which prints the --n --m --k --delta that fill the time: add --plan, and "
            "then certify with those flags"
        )
    if options.m is not None and options.time_limit is not None:
        raise ValueError("--m must be left out with --time-limit, which chooses it")
    if options.group == "auto" and options.time_limit is not None:
        raise ValueError(
            "--group must be a number with --time-limit, such as 4 for h of 1 and 16 for h of 0.5, got auto, which "
            "chooses it by n and m"
        )
    if options.m is not None and len(options.m) > 1 and not options.plan:
        got = " ".join(map(str, options.m))
        raise ValueError(f"--m must be one number, or several to compare them with --plan, got {got}")


def noise_levels(options: Arguments, sigma: float | None, conversion: float = 1.0) -> dict[float, list[float]]:
    """Return the noise levels, and the distinct eps_in to be answered at each of them, in units of x.

    With both --h and --eps-in the noise grows with the input radius, sigma = eps_in / h, as in the paper's section 5.

    Args:
        options: of certify.py.
        sigma: noise level; None if there is none.
        conversion: h is conversion * eps_in / sigma (theory T15).
    """
    if options.h is not None and options.eps_in is not None:
        if options.sigma is not None:
            raise ValueError(
                f"--sigma must be left out where --h and --eps-in are both given, as sigma is eps_in / h, got {sigma}"
            )
        if 0.0 in options.h or 0.0 in options.eps_in:
            raise ValueError("--h and --eps-in must be above 0 where both are given, as sigma is eps_in / h, got 0")
        levels: dict[float, list[float]] = {}
        for h, eps_in in sorted(product(set(options.h), set(options.eps_in))):
            levels.setdefault(noise_level(h=h, eps_in=conversion * eps_in), []).append(eps_in)
        return dict(sorted(levels.items()))
    if sigma is None:
        raise ValueError("--sigma must be given for a pretrained model, or both --h and --eps-in: sigma is eps_in / h")
    return {sigma: input_radii(options, sigma, kind=NOISES[options.noise], conversion=conversion)}


def input_radii(options: Arguments, sigma: float, *, kind: NoiseKind, conversion: float) -> list[float]:
    """Return distinct eps_in, in units of x, from --eps-in or --h, or the h that are usual for a kind of noise."""
    ratios = kind.ratios if options.h is None else options.h
    return list(dict.fromkeys(options.eps_in or (ratio * sigma / conversion for ratio in ratios)))


def _data_that_arguments_change(args: Sequence[str], trained: LoadedCheckpoint | None) -> dict[str, Any] | None:
    """Return, with ``--data.root`` alone, the data that the checkpoint was trained on, at another place."""
    ckpt, data, model = (_peek(args, flag)[0] for flag in ("--ckpt", "--data", "--model"))
    alone = data is None and any(word.startswith("--data.") for word in args)
    if model is not None or not alone or (ckpt is None and trained is None):
        return None
    from certification.subject import training_data
    from lightning_modules import load_checkpoint

    kind, init_args = training_data(trained or load_checkpoint(str(ckpt)))
    return {"class_path": f"{kind.__module__}.{kind.__name__}", "init_args": init_args}
