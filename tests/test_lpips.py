"Real LPIPS against the values that its authors publish, where AlexNet's weights are at hand."

import os
from pathlib import Path
import pytest
from odebc.images import load_image
from odebc.metrics import ALEX_VARIABLE, lpips, lpips_lite

EXAMPLES = Path(__file__).parents[2] / 'shared/data/lpips_examples'
real = pytest.mark.skipif(
    not (os.environ.get(ALEX_VARIABLE) and EXAMPLES.is_dir()),
    reason=f'needs {ALEX_VARIABLE} and the LPIPS example images',
)


@real
def test_published_values():
    ref, p0, p1 = (load_image(EXAMPLES / f'ex_{n}.png')[None] for n in ('ref', 'p0', 'p1'))
    assert lpips(p0, ref).item() == pytest.approx(0.722, abs=0.001)
    assert lpips(p1, ref).item() == pytest.approx(0.138, abs=0.001)
    # images in [0, 1] must give another value
    assert lpips((p0 + 1) / 2, (ref + 1) / 2).item() != pytest.approx(0.722, abs=0.002)
    # the stand-in, which knows neither, must see the same order
    assert lpips_lite(p0, ref).item() > 2 * lpips_lite(p1, ref).item()
