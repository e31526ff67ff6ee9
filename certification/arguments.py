"""The command line of certify.py: its arguments, their defaults, and what goes together."""

from __future__ import annotations

import argparse
import inspect
import sys
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from center_smoothing.attack import AttackBudget
from center_smoothing.budget import COVERAGES
from center_smoothing.margins import METHODS
from center_smoothing.smoothers import DEFAULT_SMOOTHER, SMOOTHERS
from certification.subject import checkpoint_path, training_data
from command_line import argument_types, class_paths, process
from command_line.named import BUDGETS, DISTANCES, check_smoother, distance_name, noise_level
from datamodules import ImageDataModule
from lightning_modules import (
    COMPILE_MODES,
    BaseModel,
    ImportedModel,
    LoadedCheckpoint,
    NoisyModule,
    load_checkpoint,
    load_own,
)
from lightning_modules.imported import SUFFIXES, model_in, model_of

DEFAULT_H = (1.0, 1.5, 2.0)
NOISES = ("gaussian", "discrete")
ATTACKS = ("none", "pgd")
# A multiple of 255, so that 8-bit images lie on it.
DEFAULT_GRID = 4080
_ATTACK_FLAGS = ("attack_steps", "attack_starts", "attack_samples")


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="certify.py",
        description="Certify a checkpoint or a pretrained model: "
        "``python certify.py --ckpt runs/latest/checkpoints/best.ckpt``.",
        exit_on_error=False,
    )
    add, count, choice, positive = (
        parser.add_argument,
        argument_types.count,
        argument_types.choice,
        argument_types.positive_number,
    )
    ratios, budgets = " ".join(f"{ratio:g}" for ratio in DEFAULT_H), f"one of {', '.join(BUDGETS)}"
    add("--config", action="config", help="YAML file with any of these arguments")
    add("--ckpt", type=str | None, help="checkpoint that train.py wrote, or its run folder")
    add(
        "--model",
        type=BaseModel | None,
        help="pretrained model instead of a checkpoint: FaceDetector, my_package.MyModule, a file",
    )
    add(
        "--from",
        type=process.folders,
        help="answer --eps-in or --h, --eps-out or both from a finished folder, no sampling; of several side by side",
    )
    add(
        "--eps-in",
        type=argument_types.radius("--eps-in"),
        nargs="+",
        help="input radii (l2 norm), in units of x; with --h too, sigma = eps_in / h",
    )
    add(
        "--h", type=argument_types.radius("--h"), nargs="+", help=f"input radii as multiples of sigma; default {ratios}"
    )
    add(
        "--eps-out",
        type=argument_types.radius("--eps-out"),
        nargs="+",
        help="with --from: output radii, in units of the distance, answered by the largest certified input radii",
    )
    add(
        "--num-examples",
        type=argument_types.num_examples,
        default=50,
        help="test examples, drawn with the seed, or all",
    )
    add(
        "--distance",
        type=distance_name,
        default="tv",
        help=f"one of {', '.join(DISTANCES)}, or your own: my_package.my_distance",
    )
    add(
        "--smoother",
        type=choice("--smoother", *SMOOTHERS),
        default=DEFAULT_SMOOTHER,
        help=f"what of the noisy outputs is certified: one of {', '.join(SMOOTHERS)}",
    )
    add("--clip-norm", type=positive("--clip-norm"), help="of means: outputs further from zero are scaled down to it")
    add(
        "--output-bound",
        type=positive("--output-bound"),
        help="of means: no two outputs are further apart, as you know",
    )
    add("--sigma", type=positive("--sigma"), help="noise level, in units of x; default: the checkpoint's")
    add(
        "--noise",
        type=choice("--noise", *NOISES),
        default="gaussian",
        help="discrete: exact noise on a grid, so that rounding cannot make a certificate false",
    )
    add("--grid", type=count("--grid"), help=f"of discrete noise: steps per unit of x; default {DEFAULT_GRID}")
    add("--budget", type=choice("--budget", *BUDGETS), default="standard", help=budgets)
    add("--n", type=count("--n"), help="ranked outputs, or outputs that are averaged")
    add("--m", type=argument_types.counts("--m"), help="certification outputs; several, to compare them with --plan")
    add("--k", type=count("--k"), help="pilot outputs, the candidate centers")
    add("--delta", type=positive("--delta"), help="margin; default: the least that abstains on at most 1%% of inputs")
    add("--alpha1", type=positive("--alpha1"), help="failure probability of the smoothed output")
    add("--alpha2", type=positive("--alpha2"), help="failure probability of the certificate")
    add("--method", type=choice("--method", *METHODS), help="paper: the paper's algorithms to the letter")
    add("--rtol", type=positive("--rtol"), help="stop where more samples cannot lower eps_out by more than this share")
    add(
        "--eps-out-at-most",
        type=argument_types.radius("--eps-out-at-most"),
        help="stop where eps_out is certified to be at most this, or cannot be with --m samples any more",
    )
    add("--plan", action="store_true", help="only say what it costs and can certify; loads no data, writes nothing")
    add("--audit", action="store_true", help="also check what certificates take for granted; exit code 1 on failures")
    add(
        "--attack",
        type=choice("--attack", *ATTACKS),
        default="none",
        help="pgd: search each certified ball for an input that moves the smoothed output; exit code 1 if one moves it "
        "further than certified",
    )
    tries = AttackBudget()
    add("--attack-steps", type=count("--attack-steps"), help=f"of each start of an attack; default {tries.steps}")
    add("--attack-starts", type=count("--attack-starts"), help=f"of each attack; default {tries.starts}")
    add("--attack-samples", type=count("--attack-samples"), help=f"noisy copies of a step; default {tries.samples}")
    limited = argument_types.time_span("--time-limit")
    add("--time-limit", type=limited, help="with --plan: print the n, m, k and delta that fill it: 90s, 30m, 2h")
    add(
        "--coverage",
        type=choice("--coverage", *COVERAGES),
        default="pointwise",
        help="each answer by itself, or all at one sigma together",
    )
    add("--data", type=ImageDataModule | None, help="data module, e.g. MNIST; default: what the model was trained on")
    add(
        "--out",
        type=str | None,
        help="folder to write; default: certification/ beside the checkpoint's folder; with --from a CSV file, or for "
        "the report of several",
    )
    add("--seed", type=int, default=0, help="of the choice of examples and of the noise")
    add(
        "--batch-size",
        type=argument_types.batch_size,
        default="auto",
        help="noisy copies per call of the model, or auto",
    )
    add("--trust", action="store_true", help="let configuration files name classes of other packages, and import them")
    add("--accelerator", type=str, default="auto", help="as in lightning.pytorch.Trainer, like the next four")
    add("--devices", type=str, default="1")
    add("--num-nodes", type=count("--num-nodes"), default=1)
    add("--strategy", type=str, default="auto")
    add("--precision", type=str, default="32-true")
    add("--fold-batch-norm", type=bool, default=True, help="make it part of the layer before it: faster, same function")
    add("--channels-last", type=bool, default=True, help="memory layout of convolutions: faster on CPUs, same function")
    compile_modes = ("off", *COMPILE_MODES)
    add(
        "--compile",
        type=choice("--compile", *compile_modes),
        default="off",
        help=f"torch.compile of the base model, one of {', '.join(compile_modes)}",
    )
    return parser


def parse(args: Sequence[str] | None) -> Namespace:
    """Return the arguments, checked, with instances of the classes that they name."""
    given_words = argument_types.files_first(sys.argv[1:] if args is None else args)
    words, model = _users_model(
        argument_types.join_values(argument_types.join_values(given_words, "--m"), "--from", by="\0")
    )
    trained = model if isinstance(model, LoadedCheckpoint) else None
    parser = _parser()
    parser.set_defaults(data=_data_that_arguments_change(words, trained))
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
        options.model = model.model if isinstance(model, LoadedCheckpoint) else model
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
    _check_smoother(options)
    _check_attack(options)
    if options.grid is not None and options.noise != "discrete":
        raise ValueError(f"--grid is of discrete noise: it needs --noise discrete, got {options.noise}")
    if options.noise == "discrete":
        options.grid = options.grid or DEFAULT_GRID
    options = parser.instantiate(options)
    options.trained = trained
    return options


def _users_model(words: Sequence[str]) -> tuple[list[str], ImportedModel | LoadedCheckpoint | None]:
    """What --model leads to on the command line, and the words without it; None for a model without weights of ours."""
    peek = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    peek.add_argument("--model")
    named, others = peek.parse_known_args(list(words))
    name = named.model
    if name is None:
        return list(words), None
    if Path(name).suffix in SUFFIXES and Path(name).is_file():
        return others, model_in(Path(name), trusted="--trust" in words)
    if not class_paths.is_dotted(name):
        return list(words), None
    found = class_paths.import_by_name(name, "--model")
    if isinstance(found, type) and issubclass(found, BaseModel):
        return (_trained_model(found, others) if issubclass(found, NoisyModule) else None) or (list(words), None)
    arguments, rest = class_paths.arguments_of("--model", others)
    return rest, model_of(found, arguments, name=name)


def _trained_model(kind: type[NoisyModule], words: Sequence[str]) -> tuple[list[str], LoadedCheckpoint] | None:
    """A model of a user's class with the weights that --model.weights names, and the words without its arguments."""
    peek = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    peek.add_argument("--model.weights", "--model.init_args.weights", dest="weights")
    named, others = peek.parse_known_args(list(words))
    if named.weights is None:
        return None
    path = Path(named.weights)
    if "weights" in inspect.signature(kind).parameters and path.suffix != ".ckpt" and not path.is_dir():
        return None  # the class knows what it is
    arguments, rest = class_paths.arguments_of("--model", others)
    return rest, load_own(kind, checkpoint_path(path, "--model.weights"), arguments)


def _check_smoother(options: Namespace) -> None:
    """Refuse arguments that mean nothing for the smoother, before anything is loaded."""
    bounds = {"--clip-norm": options.clip_norm, "--output-bound": options.output_bound}
    if options["from"] is None:
        names = ("method", "k", "delta", "rtol", "eps_out_at_most")
        of_centers = {f"--{name.replace('_', '-')}": options[name] for name in names}
        if options.smoother != DEFAULT_SMOOTHER and options.plan:
            raise ValueError(
                f"--plan compares budgets of centers: it must be left out with --smoother={options.smoother}, whose "
                "plan is printed before it samples"
            )
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


def attack_budget(options: Namespace) -> AttackBudget | None:
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
    if options.m is not None and len(options.m) > 1 and not options.plan:
        got = " ".join(map(str, options.m))
        raise ValueError(f"--m must be one number, or several to compare them with --plan, got {got}")


def trainer_arguments(options: Namespace) -> dict[str, Any]:
    """On what to compute, as in lightning.pytorch.Trainer."""
    return {name: options[name] for name in ("accelerator", "devices", "num_nodes", "strategy", "precision")}


def stopping_flags(options: Namespace) -> dict[str, float]:
    """The argument that says when to stop sampling an example early, if one was given."""
    given = {name: options[name] for name in ("rtol", "eps_out_at_most") if options[name] is not None}
    if len(given) > 1:
        raise ValueError("--rtol and --eps-out-at-most are two rules for when to stop, got both: take one of them")
    if not given.get("rtol", 0.5) < 1.0:
        raise ValueError(f"--rtol must lie in (0, 1), such as 0.02, got {options.rtol}")
    return given


def noise_levels(options: Namespace, sigma: float | None) -> dict[float, list[float]]:
    """The noise levels, and the distinct eps_in to be answered at each of them, in units of x.

    With both --h and --eps-in the noise grows with the input radius, sigma = eps_in / h, as in the paper's section 5.
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
            levels.setdefault(noise_level(h=h, eps_in=eps_in), []).append(eps_in)
        return dict(sorted(levels.items()))
    if sigma is None:
        raise ValueError("--sigma must be given for a pretrained model, or both --h and --eps-in: sigma is eps_in / h")
    return {sigma: input_radii(options, sigma)}


def input_radii(options: Namespace, sigma: float) -> list[float]:
    """Distinct eps_in, in units of x, from --eps-in or --h."""
    ratios = DEFAULT_H if options.h is None else options.h
    return list(dict.fromkeys(options.eps_in or (ratio * sigma for ratio in ratios)))


def _data_that_arguments_change(args: Sequence[str], trained: LoadedCheckpoint | None) -> dict[str, Any] | None:
    """With ``--data.root`` alone: the data that the checkpoint was trained on, at another place."""
    peek = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    peek.add_argument("--ckpt")
    peek.add_argument("--data")
    peek.add_argument("--model")
    known, others = peek.parse_known_args(args)
    alone = known.data is None and any(other.startswith("--data.") for other in others)
    if known.model is not None or not alone or (known.ckpt is None and trained is None):
        return None
    kind, init_args = training_data(trained or load_checkpoint(known.ckpt))
    return {"class_path": f"{kind.__module__}.{kind.__name__}", "init_args": init_args}
