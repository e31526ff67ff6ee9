"""What certify.py refuses in one line with exit code 2, before anything is sampled."""

import shlex
from pathlib import Path

import pytest

from tests.scripts.running import CENTERS, TINY, refused

# What is typed besides a tiny certification, and parts of what is said. Where there is no checkpoint of that name, it
# is said before one is loaded.
REFUSED = r"""
--sigma=0 | --sigma must be a positive number | '0'
--sigma=nan | --sigma must be a positive number | 'nan'
--sigma=loud | --sigma must be a positive number | 'loud'
--h 9 | no number of samples certifies | (h=9)
--h x | --h must be a number | 'x'
--eps-in -1 | --eps-in must be a number of at least 0 | -1
--h 1 --eps-in 0.2 --sigma=0.1 | --sigma must be left out | eps_in / h, got 0.1
--h 0 --eps-in 0.2 | --h and --eps-in must be above 0 where both are given
--h 1 9 --eps-in 0.2 | no number of samples certifies eps_in=0.2 (h=9)
--ckpt=CKPT --model=FaceDetector | --ckpt must name a checkpoint | got --ckpt and --model
--model=FaceDetector --distance=jaccard --sigma=0.1 | --data must name a data module | pretrained model, got none
--ckpt=CKPT --model=Foo | --model | Foo
--num-examples=some | --num-examples must be all or a whole number of at least 1 | 'some'
--num-examples=501 | --num-examples must be all or at most 500 | got 501
--delta=0.01 | delta must lie in [0. | n=100 | got 0.01
--alpha1=0.7 | alpha_1 must lie in (0, 0.5], got 0.7
--out=/dev/null/x | --out must be a folder that can be written to | /dev/null/x
--distance=hamming | --distance must be one of tv | 'hamming'
--budget=huge | --budget must be one of paper, quick, standard | 'huge'
--method=magic | --method must be one of exact, paper | 'magic'
--rtol=1 | --rtol must lie in (0, 1), such as 0.02, got 1
--rtol=0.1 --eps-out-at-most=40 | --rtol and --eps-out-at-most are two rules
--h 0 --m=150 --rtol=0.1 | m must be at least about 200 to stop early at h=0 | got 150
--rtol=0.1 --method=paper --delta=0.3 --h 0 | looks must be 1 for method='paper'
--n=0 | --n must be a whole number of at least 1 | '0'
--m=many | --m must be a whole number of at least 1 | 'many'
--m 100 200 | --m must be one number, or several to compare them with --plan, got 100 200
--batch-size=0 | --batch-size must be auto or a whole number | '0'
--accelerator=abacus | --accelerator=abacus
--data=Foo | --data | Foo
--group=0 | --group must be auto or a whole number of at least 1, got '0'
--group=4 --smoother=median --distance=l2 | --group must be left out with --smoother=median, got 4
--group=4 --method=paper --delta=0.3 | group must be 1 for method='paper', got 4
--plan --group=auto --time-limit=1m | --group must be a number with --time-limit
--ckpt=none --smoother=both | --smoother must be one of center, mean | 'both'
--ckpt=none --smoother=mean | exactly one of --clip-norm and --output-bound, got none | part of the model | who knows
--ckpt=none --smoother=mean --clip-norm=1 --output-bound=2 | exactly one | got --clip-norm and --output-bound
--ckpt=none --clip-norm=1 | --clip-norm bounds the outputs of means | --smoother mean, got center
--ckpt=none --output-bound=1 | --output-bound bounds the outputs of means | got center
--ckpt=none --smoother=mean --clip-norm=9 --distance=angular | --clip-norm must be left out with --distance=angular
--ckpt=none --smoother=mean --clip-norm=auto --distance=cosine | --clip-norm must be left out | of norm 1
--ckpt=none --clip-norm=auto | --clip-norm bounds the outputs of means | got center
--ckpt=none --smoother=mean --output-bound=1 --distance=cosine | --output-bound must be left out
--ckpt=none --smoother=mean --clip-norm=9 --distance=jaccard | convex in the output or depends on directions alone (tv,
--ckpt=none --smoother=mean --clip-norm=9 --distance=jaccard | wasserstein1), got jaccard: by
--ckpt=none --smoother=mean --clip-norm=9 --distance=mask-jaccard | got mask-jaccard | away than each of its outputs
--ckpt=none --smoother=mean --clip-norm=9 --method=paper | --method is of centers alone | --smoother=mean
--ckpt=none --smoother=mean --clip-norm=9 --rtol=0.1 | --rtol is of centers alone
--ckpt=none --smoother=mean --clip-norm=9 --eps-out-at-most=3 | --eps-out-at-most is of centers alone
--ckpt=none --smoother=mean --clip-norm=9 --k=8 | --k is of centers alone
--ckpt=none --smoother=mean --clip-norm=9 --delta=0.1 | --delta is of centers alone
--plan --smoother=mean --clip-norm=9 --time-limit=1m | --time-limit is of centers alone | --smoother=mean
--ckpt=none --smoother=mean --clip-norm=9 --budget=paper | --budget must be one of quick, standard | got paper
--ckpt=none --smoother=mean --clip-norm=0 | --clip-norm must be auto or a positive number | '0'
--ckpt=none --smoother=mean --output-bound=inf | --output-bound must be a positive number | 'inf'
--smoother=median --distance=hausdorff | needs a distance that is bounded over boxes of outputs (tv,
--smoother=median --distance=wasserstein1 | got wasserstein1: what is certified of medians is a box
--smoother=median | n must be odd, so that there is a middle one, got 100; 101 does
--smoother=median --k=8 | --k is of centers alone: it must be left out with --smoother=median
--smoother=median --clip-norm=3 | --clip-norm bounds the outputs of means: it needs --smoother mean, got median
--smoother=median --budget=paper | --budget must be one of quick, standard for --smoother=median, got paper
--smoother=median --n=101 --h=4 | --m must be at least
--smoother=median --n=101 --m=200 --h=2 | --m must be at least
--grid=255 | --grid is of discrete noise: it needs --noise discrete, got gaussian
--noise=laplace | --noise must be one of gaussian, discrete, uniform, got 'laplace'
--noise=discrete --grid=0 | --grid must be a whole number of at least 1, got '0'
--noise=discrete --grid=1e9 | grid must be such that sigma * grid
--noise=uniform --threat=linf | --threat must be l1 with --noise uniform, got linf: in other norms
--noise=uniform --smoother=mean --clip-norm=9 | --noise must be gaussian or discrete with --smoother
--noise=uniform --method=paper | --noise must be gaussian for the paper's algorithms, got uniform
--noise=uniform --budget=paper | --noise must be gaussian for the paper's algorithms, got uniform
--noise=uniform --sigma-map=map.npy | --sigma-map is of Gaussian noise: it must be left out with
--noise=discrete --sigma-map=map.npy | --sigma-map is of Gaussian noise: it must be left out with
--noise=uniform --h=1 | --eps-in must be smaller, or --sigma larger: no number of samples certifies
--threat=scaled-l2 | --threat scaled-l2 needs --sigma-map
--threat=linf --eps-in=1 | no number of samples certifies eps_in=1 (h=112)
--threat=l3 | --threat must be one of l2, l1, linf, scaled-l2, got 'l3'
--sigma-map=nowhere.npy | got nowhere.npy: there is no such file
--plan --threat=linf --eps-in=0.01 | h depends on how many numbers an input has
--attack=fgsm | --attack must be one of none, pgd, got 'fgsm'
--attack-steps=5 | --attack-steps is of an attack: it needs --attack pgd, got none
--attack=pgd --attack-starts=0 | --attack-starts must be a whole number of at least 1, got '0'
--plan --attack=pgd | --attack goes with a certification
--plan --m 100 many | --m must be a whole number of at least 1 | 'many'
--plan --n=10 --h=1 | n=10 | too small
--plan --eps-in 0.5 | --sigma must be given
--plan --time-limit=1h --h=1 | --time-limit must have --ckpt or --model
--time-limit=1h | --time-limit goes with --plan | then certify with those flags
--time-limit=soon | --time-limit must be a time such as 90s, 30m or 2h | 'soon'
--time-limit=0 | --time-limit must be a time | '0'
--plan --time-limit=1h --m=100 | --m must be left out with --time-limit
--from=x --plan | --plan must be left out with --from
--from=x --time-limit=5 | --time-limit goes with --plan
--plan --eps-out=5 | --eps-out must be asked of a finished folder, got it with --plan
--ckpt=CKPT --eps-out 40 60 | of a finished folder, got it with --ckpt | --from FOLDER --eps-out 40
--from=x --sigma=0.1 | the folder has its own
--from=x --h=1 --eps-in=0.1 | the folder has its own
--from=x --h=1 --smoother=mean | the folder has its own
--from=x --h=1 --clip-norm=20 | the folder has its own
--from=x --h=1 --output-bound=20 | the folder has its own
--from=x --threat=linf | the folder has its own
--from=x --noise=uniform | the folder has its own
--from=x --sigma-map=map.npy | the folder has its own
--from=x --denoiser=y | --denoiser must be left out with --from
--denoiser.factor=2 | --denoiser must name a class to go with --denoiser.factor, got none
"""


@pytest.mark.parametrize("line", REFUSED.strip().splitlines())
def test_bad_arguments_give_one_line_and_exit_code_2(
    line: str, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    typed, *words = line.split(" | ")
    arguments = shlex.split(typed.replace("CKPT", str(checkpoint)))
    if not {"--plan", "--from=x"} & set(arguments):
        small = TINY if "--smoother" in typed else CENTERS
        radii = [] if "--h" in typed or "--eps-in" in typed else ["--h=0"]
        named = "--ckpt=" in typed or "--model" in typed
        subject = [f"--out={tmp_path / 'out'}", *([] if named else [f"--ckpt={checkpoint}"])]
        arguments = [*subject, *small, *radii, *arguments]
    said = refused(capsys, *arguments)
    assert all(word in said for word in words), said
    assert not list(tmp_path.glob("out/*.csv"))
