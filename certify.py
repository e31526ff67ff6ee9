"""Certify a checkpoint or a pretrained model: ``python certify.py --ckpt runs/latest/checkpoints/best.ckpt``."""

from __future__ import annotations

import argparse
import hashlib
import inspect
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch
from jsonargparse import ArgumentParser, Namespace
from lightning.pytorch.utilities import rank_zero_only
from torch import nn
from torch.utils.data import Subset

import auditing
import class_paths
import conclusion
import datamodules
import entrypoint
import planning
from callbacks import CertificationFolder, attack_results
from callbacks import certification_answers as answers
from callbacks import certification_comparison as comparison
from callbacks import certification_report as report
from callbacks.foreign_files import check_inside, check_links
from center_smoothing import (
    CenterSmoother,
    Decided,
    Distance,
    FunctionDistance,
    MeanSmoother,
    TightEnough,
)
from center_smoothing.attack import AttackBudget
from center_smoothing.audit import Finding
from center_smoothing.budget import COVERAGES, METHODS, Coverage
from center_smoothing.sampling import check_point
from center_smoothing.smoother import StoppingRule
from certification import Job, Run, check_same
from datamodules import ImageDataModule
from lightning_modules import (
    COMPILE_MODES,
    BaseModel,
    CompiledModel,
    ImportedModel,
    LoadedCheckpoint,
    NoisyModule,
    checkpoint_file,
    folded,
    load_checkpoint,
    load_own,
)
from lightning_modules.imported import SUFFIXES, model_in, model_of, source_of

DEFAULT_H = (1.0, 1.5, 2.0)
NOISES = ("gaussian", "discrete")
ATTACKS = ("none", "pgd")
# A multiple of 255, so that 8-bit images lie on it.
DEFAULT_GRID = 4080
_ATTACK_FLAGS = ("attack_steps", "attack_starts", "attack_samples")
# A distributed run has several processes and one terminal.
_say = rank_zero_only(print)


@dataclass(frozen=True)
class Subject:
    """What is to be certified.

    Attributes:
        model: the base model.
        sigma: its own noise level; None for a pretrained model.
        sha256: of the checkpoint's file, or of a user's model; None for one of this project.
        training: the run that it was trained in, if it says so.
        data: its test split.
        folder: beside which results go by default.
    """

    model: BaseModel
    sigma: float | None
    sha256: str | None
    training: str | None
    data: ImageDataModule
    folder: Path


@dataclass(frozen=True)
class Smoothing:
    """One of the smoothed functions that are to be certified.

    Attributes:
        kind: "center" or "mean".
        make: its smoother, from base model and distance, with sigma, seed and batch_size.
        config: what the results depend on besides.
        name: in the name of a folder.
        rules: the argument that says when to stop early.
    """

    kind: str
    make: Callable[..., CenterSmoother | MeanSmoother]
    config: dict[str, Any]
    name: str
    rules: dict[str, float]


def main(args: Sequence[str] | None = None) -> Path | None:
    """Certify, and return the certification folder; None where only the plan was asked for.

    Args:
        args: command-line arguments; default those of the process.

    Raises:
        SystemExit: with code 2 and one line on bad input; what was finished stays on disk. With code 1 if an audit
            found a failure, or an attack contradicts a certificate, or on an interruption.
    """
    with entrypoint.interruptible(), ExitStack() as locks, entrypoint.user_errors() as state:
        entrypoint.quiet_libraries()
        entrypoint.keep_freed_memory()
        entrypoint.end_with_parent()
        entrypoint.end_with_children(state)
        with class_paths.checked(sys.argv[1:] if args is None else args):
            options = _parse(args)
        if options["from"] is not None:
            return _answer(options)
        if options.plan:
            _say(*_plan_only(options), sep="\n")
            return None
        subject = _subject(options)
        out, jobs = _prepare(options, subject, locks)
        state.folder = out.path
        _say(*_plan(jobs), sep="\n")
        runs = [Run(job, **_where(options)) for job in jobs]
        if options.audit:
            _audit_before(runs)
        _preflight(runs)
        if len(jobs) > 1 and out.read_summary() is None and rank_zero_only.rank == 0:
            runs[0].write_summary([], folder=out, config=conclusion.config_of_all(jobs))
        for run in runs:
            if len(runs) > 1 and run.todo:
                _say(f"{run.job.folder.path.name}:")
            state.kept = run.kept
            run.execute()
        if runs[0].trainer.is_global_zero:
            kept = f"all examples are finished and kept in {out.path}; the same command writes the rest"
            state.kept = lambda: kept
            contradicted = _conclude(out, runs, subject)
            if contradicted or not all(finding["passed"] for finding in runs[0].findings):
                raise SystemExit(1)
    return out.path


def _parser() -> ArgumentParser:
    parser = ArgumentParser(prog="certify.py", description=__doc__, exit_on_error=False)
    add, count, choice, positive = parser.add_argument, entrypoint.count, entrypoint.choice, entrypoint.positive_number
    ratios, budgets = " ".join(f"{ratio:g}" for ratio in DEFAULT_H), f"one of {', '.join(entrypoint.BUDGETS)}"
    add("--config", action="config", help="YAML file with any of these arguments")
    add("--ckpt", type=str | None, help="checkpoint that train.py wrote, or its run folder")
    add(
        "--model",
        type=BaseModel | None,
        help="pretrained model instead of a checkpoint: FaceDetector, my_package.MyModule, a file",
    )
    add(
        "--from",
        type=entrypoint.folders,
        help="answer --eps-in or --h, --eps-out or both from a finished folder, no sampling; of several side by side",
    )
    add(
        "--eps-in",
        type=entrypoint.radius("--eps-in"),
        nargs="+",
        help="input radii (l2 norm), in units of x; with --h too, sigma = eps_in / h",
    )
    add("--h", type=entrypoint.radius("--h"), nargs="+", help=f"input radii as multiples of sigma; default {ratios}")
    add(
        "--eps-out",
        type=entrypoint.radius("--eps-out"),
        nargs="+",
        help="with --from: output radii, in units of the distance, answered by the largest certified input radii",
    )
    add("--num-examples", type=entrypoint.num_examples, default=50, help="test examples, drawn with the seed, or all")
    add(
        "--distance",
        type=entrypoint.distance_name,
        default="tv",
        help=f"one of {', '.join(entrypoint.DISTANCES)}, or your own: my_package.my_distance",
    )
    add(
        "--smoother",
        type=choice("--smoother", *entrypoint.SMOOTHERS),
        default="center",
        help=f"what of the noisy outputs is certified: one of {', '.join(entrypoint.SMOOTHERS)}",
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
    add("--budget", type=choice("--budget", *entrypoint.BUDGETS), default="standard", help=budgets)
    add("--n", type=count("--n"), help="ranked outputs, or outputs that are averaged")
    add("--m", type=entrypoint.counts("--m"), help="certification outputs; several, to compare them with --plan")
    add("--k", type=count("--k"), help="pilot outputs, the candidate centers")
    add("--delta", type=positive("--delta"), help="margin; default: the least that abstains on at most 1%% of inputs")
    add("--alpha1", type=positive("--alpha1"), help="failure probability of the smoothed output")
    add("--alpha2", type=positive("--alpha2"), help="failure probability of the certificate")
    add("--method", type=choice("--method", *METHODS), help="paper: the paper's algorithms to the letter")
    add("--rtol", type=positive("--rtol"), help="stop where more samples cannot lower eps_out by more than this share")
    add(
        "--eps-out-at-most",
        type=entrypoint.radius("--eps-out-at-most"),
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
    limited = entrypoint.time_span("--time-limit")
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
        type=entrypoint.batch_size,
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


def _parse(args: Sequence[str] | None) -> Namespace:
    given_words = entrypoint.files_first(sys.argv[1:] if args is None else args)
    words, model = _users_model(entrypoint.joined(entrypoint.joined(given_words, "--m"), "--from", by="\0"))
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
    own = options.distance not in entrypoint.DISTANCES
    if own and not (options.trust or options.distance in class_paths.typed(words)):
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
    found = class_paths.imported(name, "--model")
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
    return rest, load_own(kind, _checkpoint_of(path, "--model.weights"), arguments)


def _checkpoint_of(path: str | Path, flag: str) -> Path:
    """The file of a checkpoint; which it is of a folder is said."""
    found = checkpoint_file(path, flag=flag)
    if found != Path(path):
        _say(f"checkpoint: {found}")
    return found


def _trained(options: Namespace) -> LoadedCheckpoint | None:
    """What train.py has trained, from --ckpt or from --model.weights; None for a pretrained model."""
    if options.ckpt is None:
        return options.trained
    return load_checkpoint(_checkpoint_of(options.ckpt, "--ckpt"))


def _check_smoother(options: Namespace) -> None:
    """Refuse arguments that mean nothing for the smoother, before anything is loaded."""
    bounds = {"--clip-norm": options.clip_norm, "--output-bound": options.output_bound}
    if options["from"] is None:
        names = ("method", "k", "delta", "rtol", "eps_out_at_most")
        of_centers = {f"--{name.replace('_', '-')}": options[name] for name in names}
        if options.smoother != "center" and options.plan:
            raise ValueError(
                f"--plan compares budgets of centers: it must be left out with --smoother={options.smoother}, whose "
                "plan is printed before it samples"
            )
        entrypoint.check_smoother(
            options.smoother, distance=options.distance, budget=options.budget, bounds=bounds, of_centers=of_centers
        )
    elif options.smoother != "center" or any(value is not None for value in bounds.values()):
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


def _attack_budget(options: Namespace) -> AttackBudget | None:
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


def _subject(options: Namespace) -> Subject:
    """The model and its test data, as far as they can be had."""
    trained = _trained(options)
    if trained is None:
        if options.data is None:
            raise ValueError("--data must name a data module, e.g. PhotoFolder, for a pretrained model, got none")
        data, folder = options.data, Path("runs") / type(options.model).__name__
        sha256 = getattr(options.model, "sha256", None)
        subject = Subject(options.model.eval(), options.sigma, sha256, None, data, folder)
    else:
        data, path = options.data, trained.path.resolve()
        if data is None:
            kind, init_args = _trained_on(trained)
            data = kind(**init_args)
        sigma = trained.model.sigma if options.sigma is None else options.sigma
        folder = path.parent.parent if path.parent.name == "checkpoints" else path.parent
        subject = Subject(trained.model, sigma, entrypoint.sha256(path), trained.run, data, folder)
    subject.data.prepare_data()
    subject.data.setup("test")
    return subject


def _prepare(options: Namespace, subject: Subject, locks: ExitStack) -> tuple[CertificationFolder, list[Job]]:
    """Check everything that can be checked without sampling: the folder, and a job for each noise level.

    The folder stays locked until ``locks`` is closed.
    """
    distance, levels = entrypoint.distance_named(options.distance), _noise_levels(options, subject.sigma)
    kinds = {"center": _centers, "mean": _means}
    smoothing = kinds[options.smoother](options, levels)
    examples, indices, digest = _draw_examples(subject.data, options.num_examples, options.seed)
    attack = _attack_budget(options)
    config = {
        "model": type(subject.model).__name__,
        **({"model_settings": dict(subject.model.hparams)} if options.model is not None else {}),
        "data": {"class": type(subject.data).__name__, **dict(subject.data.hparams)},
        "num_examples": len(examples),
        "examples_sha256": digest,
        "seed": options.seed,
        **({} if options.grid is None else {"noise": options.noise, "grid": options.grid}),
        **({} if attack is None else {"attack": {"method": options.attack, **asdict(attack)}}),
        "distance": repr(distance),
        "relaxation": distance.relaxation,
        **_code_of(options.distance, distance),
        "coverage": options.coverage,
        "precision": options.precision,
        # the same function up to rounding, which may decide where a certificate is close
        **{name: options[name] for name in ("fold_batch_norm", "channels_last", "compile")},
    }
    path = (
        Path(options.out) if options.out is not None else _default_folder(options, subject, config, smoothing, levels)
    )
    check_links(path, "--out")
    entrypoint.make_writable(path, "--out")
    if rank_zero_only.rank == 0:
        locks.enter_context(CertificationFolder(path).locked())
        CertificationFolder(path).remove_partial_files()
    model, base_function = _fast(subject.model, options)
    names = getattr(subject.data, "names", None)
    jobs = [
        Job(
            model=model,
            original=subject.model,
            examples=examples,
            indices=indices,
            smoother=smoothing.make(
                base_function,
                distance,
                sigma=sigma,
                seed=options.seed,
                grid=options.grid,
                batch_size=options.batch_size,
            ),
            folder=CertificationFolder(path / f"sigma={sigma!r}" if len(levels) > 1 else path),
            eps_in=radii,
            coverage=options.coverage,
            config={"smoother": smoothing.kind, **config, **smoothing.config, "sigma": sigma, "eps_in": radii},
            checkpoint_sha256=subject.sha256,
            names={} if names is None else {index: names[index] for index in indices},
            stop=_stopping_rule(smoothing.rules, radii, options.coverage),
            attack=attack,
        )
        for sigma, radii in levels.items()
    ]
    for job in jobs:
        check_inside(job.folder.path, path)
    if len(jobs) > 1:
        check_same(CertificationFolder(path), conclusion.config_of_all(jobs), subject.sha256)
    return CertificationFolder(path), jobs


def _code_of(name: str, distance: Distance) -> dict[str, str]:
    """What a user's distance is, so that the results of another one are not mixed with it."""
    function = distance.function if isinstance(distance, FunctionDistance) else distance
    source = None if name in entrypoint.DISTANCES else source_of(function)
    return {} if source is None else {"distance_sha256": entrypoint.sha256(source)}


def _request(options: Namespace, levels: Mapping[float, Sequence[float]]) -> planning.Request:
    return planning.Request(options, levels, stops=bool(_stopping(options)))


def _centers(options: Namespace, levels: Mapping[float, Sequence[float]]) -> Smoothing:
    """Return center smoothing, where it can certify all that is asked."""
    rules = _stopping(options)
    budget = _request(options, levels).budget(None if options.m is None else options.m[0])
    for sigma, radii in levels.items():
        for radius in radii:
            entrypoint.check_certifiable(budget, sigma=sigma, eps_in=radius)
    config = {"budget": budget.as_dict(), **rules}
    return Smoothing("center", partial(CenterSmoother, budget=budget), config, budget.method, rules)


def _means(options: Namespace, levels: Mapping[float, Sequence[float]]) -> Smoothing:
    """Mean smoothing, which certifies something at every h."""
    given = {name: options[name] for name in ("n", "alpha1", "alpha2")}
    budget = entrypoint.mean_budget(options.budget, m=None if options.m is None else options.m[0], **given)
    make = partial(MeanSmoother, budget=budget, clip_norm=options.clip_norm, bound=options.output_bound)
    bounds = {name: options[name] for name in ("clip_norm", "output_bound") if options[name] is not None}
    name = "-".join(["mean", *(f"{flag}={value:g}" for flag, value in bounds.items())])
    return Smoothing("mean", make, {"budget": budget.as_dict(), **bounds}, name, {})


def _plan_only(options: Namespace) -> list[str]:
    """What --plan prints, from the flags and the model alone."""
    model, sigma, trained = options.model, options.sigma, _trained(options)
    if trained is not None:
        model = trained.model
        sigma = model.sigma if sigma is None else sigma
    known = model is not None or sigma is not None or options.eps_in is not None
    levels = _noise_levels(options, sigma if known else 1.0)  # h alone needs no sigma
    model, function = (None, None) if model is None else _fast(model.eval(), options)
    return planning.only_plan(_request(options, levels), model, function, where=_where(options), sigma_known=known)


def _where(options: Namespace) -> dict[str, Any]:
    """On what to compute, as in lightning.pytorch.Trainer."""
    return {name: options[name] for name in ("accelerator", "devices", "num_nodes", "strategy", "precision")}


def _stopping(options: Namespace) -> dict[str, float]:
    """The argument that says when to stop sampling an example early, if one was given."""
    given = {name: options[name] for name in ("rtol", "eps_out_at_most") if options[name] is not None}
    if len(given) > 1:
        raise ValueError("--rtol and --eps-out-at-most are two rules for when to stop, got both: take one of them")
    if not given.get("rtol", 0.5) < 1.0:
        raise ValueError(f"--rtol must lie in (0, 1), such as 0.02, got {options.rtol}")
    return given


def _stopping_rule(given: Mapping[str, float], eps_in: list[float], coverage: Coverage) -> StoppingRule | None:
    if "rtol" in given:
        return TightEnough(eps_in, given["rtol"], coverage)
    return Decided(eps_in, given["eps_out_at_most"], coverage) if given else None


def _fast(model: BaseModel, options: Namespace) -> tuple[BaseModel, nn.Module]:
    """The base model as it is evaluated fastest, and what evaluates it."""
    if options.fold_batch_norm and not (isinstance(model, ImportedModel) and not model.is_eager):
        model = folded(model)
    if options.channels_last:
        model = model.to(memory_format=torch.channels_last)
    return model, model if options.compile == "off" else CompiledModel(model, options.compile)


def _noise_levels(options: Namespace, sigma: float | None) -> dict[float, list[float]]:
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
            levels.setdefault(entrypoint.noise_level(h=h, eps_in=eps_in), []).append(eps_in)
        return dict(sorted(levels.items()))
    if sigma is None:
        raise ValueError("--sigma must be given for a pretrained model, or both --h and --eps-in: sigma is eps_in / h")
    return {sigma: _input_radii(options, sigma)}


def _input_radii(options: Namespace, sigma: float) -> list[float]:
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
    kind, init_args = _trained_on(trained or load_checkpoint(known.ckpt))
    return {"class_path": f"{kind.__module__}.{kind.__name__}", "init_args": init_args}


def _trained_on(checkpoint: LoadedCheckpoint) -> tuple[type[ImageDataModule], dict[str, Any]]:
    """The class of the data module, and its arguments."""
    if checkpoint.data is None:
        raise ValueError(
            "--data must name a data module, e.g. MNIST: the checkpoint does not say what it was trained on"
        )
    kind = getattr(datamodules, str(checkpoint.data["class"]), None)
    if not (isinstance(kind, type) and issubclass(kind, ImageDataModule)):
        raise ValueError(
            f"--data must name a data module, e.g. MNIST: there is no {checkpoint.data['class']!r} any more"
        )
    return kind, dict(checkpoint.data["init_args"])


def _draw_examples(
    datamodule: ImageDataModule, number: int | str, seed: int
) -> tuple[Subset[dict[str, torch.Tensor]], list[int], str]:
    """Test examples drawn with the seed, their indices, and a hash of both; fewer of them are the first of more."""
    test_set = datamodule.test_set
    num_examples = len(test_set) if number == "all" else int(number)
    if num_examples > len(test_set):
        raise ValueError(
            f"--num-examples must be all or at most {len(test_set)}, the size of the test set, got {num_examples}"
        )
    order = torch.randperm(len(test_set), generator=torch.Generator().manual_seed(seed))
    examples, indices, digest = Subset(test_set, order[:num_examples].tolist()), [], hashlib.sha256()
    for position in range(num_examples):
        example = examples[position]
        indices.append(int(example["index"]))
        try:
            check_point(example["image"])
        except ValueError as error:
            raise ValueError(f"--data: image {indices[-1]} cannot be certified: {error}") from error
        digest.update(f"{indices[-1]} {tuple(example['image'].shape)}".encode() + example["image"].numpy().tobytes())
    return examples, indices, digest.hexdigest()


def _default_folder(
    options: Namespace,
    subject: Subject,
    config: dict[str, Any],
    smoothing: Smoothing,
    levels: dict[float, list[float]],
) -> Path:
    """The same command finds the same folder again."""
    configs = {smoothing.kind: {**config, **smoothing.config}}
    identity = json.dumps([configs, sorted(levels.items()), subject.sha256, options.batch_size], sort_keys=True)
    digest = hashlib.sha256(identity.encode()).hexdigest()[:8]
    name = "-".join([options.distance, smoothing.name, digest])
    return _relative(subject.folder / "certification" / name)


def _relative(path: Path) -> Path:
    """As seen from here, where that is shorter."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def _plan(jobs: Sequence[Job]) -> list[str]:
    given: dict[str, Any] = {"levels": conclusion.radii_by_sigma(jobs), "num_examples": len(jobs[0].examples)}
    smoother = jobs[0].smoother
    if isinstance(smoother, MeanSmoother):
        found = report.mean_plan_lines(smoother, **given)
    else:
        found = report.plan_lines(smoother.budget, smoother.distance, **given)
    if jobs[0].attack is not None:
        evaluations = max(job.evaluations_of_attack for job in jobs)
        found.append(attack_results.plan_line(jobs[0].attack, evaluations=evaluations))
    change = jobs[0].grid_change
    if change is not None:
        found.append(report.grid_line(jobs[0].config["grid"], change))
    return found


def _preflight(runs: Sequence[Run]) -> None:
    """See that it can work, and say how long it will take."""
    todo = [run for run in runs if run.todo]
    if not todo:
        return
    rate = todo[0].preflight()
    seconds = sum(run.job.evaluations * run.most_examples for run in todo) / rate
    what = f"{sum(len(run.todo) for run in todo)} examples"
    what += f" at {len(runs)} noise levels together" if len(runs) > 1 else ""
    speed, batch_size = rate * todo[0].trainer.world_size, todo[0].job.smoother.outputs.batch_size
    _say(f"  about {report.duration(seconds)} for {what} at {speed:,.0f} samples/s in batches of {batch_size}")
    if todo[0].job.attack is not None and not todo[0].has_gradient():
        _say("  attack: the model or the distance has no gradient: a search without gradients takes its place")


def _audit_before(runs: Sequence[Run]) -> None:
    """What can be checked without a certificate; nothing is certified where it would mean nothing."""
    findings = auditing.before(runs)
    if any(finding.fatal for finding in findings):
        _say(*auditing.lines(findings), "nothing is certified: these failures leave certificates without a meaning",
             sep="\n")  # fmt: skip
        raise SystemExit(1)
    for run in runs:
        run.findings = auditing.as_plain(findings)


def _audit_after(runs: Sequence[Run]) -> None:
    """What the certificates themselves say, with all that was found before."""
    findings = [*(Finding(**finding) for finding in runs[0].findings), *auditing.after(runs)]
    _say(*auditing.lines(findings), sep="\n")
    for run in runs:
        run.findings = auditing.as_plain(findings)


def _conclude(out: CertificationFolder, runs: Sequence[Run], subject: Subject) -> bool:
    """Bring the files together, and say what was found and what holds: on the terminal, on disk and in W&B.

    Returns:
        Whether an attack contradicts a certificate.
    """
    if runs[0].findings:
        _audit_after(runs)
    jobs, parts = [run.job for run in runs], [conclusion.Part.of(run) for run in runs]
    rows, results = conclusion.write_files(out, parts, runs[0])
    print(*report.result_lines(results), *attack_results.result_lines(rows), sep="\n")
    notes = [line for part in parts for line in report.non_finite_lines(part.job.folder, part.rows)]
    for line in [*notes, *_memory_lines(runs)]:
        print(line)
    print(parts[0].promise)
    for line in report.left_out_lines(subject.data.left_out):
        print(line)
    files = ", ".join(path.name for path in (out.table, out.fractions, out.summary, out.picture, out.fraction_picture))
    where = "distances/, outputs/" if len(parts) == 1 else "a folder for each sigma"
    print(f"written: {out.path} ({files}, report.html, {where})")
    if any(run.todo for run in runs):
        config = {**conclusion.config_of_all(jobs), "checkpoint_sha256": subject.sha256}
        shown = conclusion.shown(jobs)
        log = partial(report.log_to_wandb, out, rows, results, examples=shown, config=config, group=subject.training)
        reason = entrypoint.wandb_offline() or entrypoint.wandb_refusal(partial(log, offline=False))
        if reason is not None:
            log(offline=True)
            entrypoint.say_offline(out.path, reason)
    where = ", ".join(str(job.folder.counterexamples) for job in jobs if job.folder.counterexamples.is_dir())
    wrong = attack_results.contradiction_lines(rows, alpha=jobs[0].smoother.budget.alpha, where=where)
    if wrong:
        print(*wrong, sep="\n", file=sys.stderr)
    return bool(wrong)


def _memory_lines(runs: Sequence[Run]) -> list[str]:
    """A line if the memory of the device was too small for a batch."""
    limits = {(outputs.batch_size, outputs.most_at_once) for outputs in (run.job.smoother.outputs for run in runs)}
    return [
        f"note: the device ran out of memory: batches of {size} were evaluated {most} at a time, with the same numbers"
        for size, most in sorted(limits, key=str)
        if most is not None
    ]


def _answer(options: Namespace) -> Path:
    """Answer from a finished folder without a single evaluation (theory T6)."""
    if options.sigma is not None or (options.h is not None and options.eps_in is not None):
        raise ValueError("--from takes --eps-in or --h, not both and no --sigma: the folder has its own")
    if len(options["from"]) > 1:
        return _compare(options)
    folder, table = CertificationFolder(options["from"][0]), None if options.out is None else Path(options.out)
    if table is not None:
        answers.check_table(table)
    certificates, coverage = answers.certificates_of_finished(folder), options.coverage
    folder.check_consistent(certificates)
    found = []
    if _asks_eps_in(options):
        eps_in = _input_radii(options, next(iter(certificates.values())).sigma)
        found.append(answers.output_radii(certificates, eps_in, coverage=coverage))
    if options.eps_out is not None:
        found.append(answers.input_radii(certificates, list(dict.fromkeys(options.eps_out)), coverage=coverage))
    if table is not None:
        answers.write_table(found, table)
    print(*map(entrypoint.printable, answers.lines(folder, certificates, found)), sep="\n")
    if table is not None:
        print(f"written: {table}")
    return folder.path


def _asks_eps_in(options: Namespace) -> bool:
    """Return whether a finished folder is asked for output radii."""
    return options.eps_out is None or options.eps_in is not None or options.h is not None


def _compare(options: Namespace) -> Path | None:
    """Show several finished folders side by side, and return the folder of the report if one was asked for."""
    out, coverage = None if options.out is None else Path(options.out), options.coverage
    if out is not None and not _asks_eps_in(options):
        raise ValueError("--out is for the report of output radii: with several folders in --from it needs --eps-in")
    if out is not None and (out.suffix.lower() == ".csv" or out.is_file() or CertificationFolder(out).summary.exists()):
        raise ValueError(
            f"--out must be a folder without a certification, for the report of several folders in --from, got {out}"
        )
    compared, rows, inputs = comparison.read_all(options["from"]), {}, {}
    for label, each in compared.items():
        if _asks_eps_in(options):
            asked = options.eps_in or options.h
            eps_in = _input_radii(options, each.sigma) if asked else comparison.asked_radii(compared)
            rows[label] = each.rows(eps_in, coverage=coverage)
        if options.eps_out is not None:
            eps_out = list(dict.fromkeys(options.eps_out))
            inputs[label] = answers.input_radii(each.certificates, eps_out, coverage=coverage)
    found = comparison.lines(compared, rows, inputs, coverage=coverage)
    print(*map(entrypoint.printable, found), sep="\n")
    if out is not None:
        entrypoint.make_writable(out, "--out")
        print(f"written: {', '.join(map(str, comparison.write(compared, rows, out, coverage=coverage)))}")
    return out


if __name__ == "__main__":
    main()
