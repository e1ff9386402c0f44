// What the noise app does with a kernel only.

/** The circle point by point, in the background; a second click stops it. */
function roundTrip({ ask, guarded, circleAsked, passed }) {
  const TITLE = "go round the circle";
  const start = button(TITLE, () => guarded(go));
  let going = null; // what was asked, and how many points have come

  async function go() {
    if (going) return stop();
    const asked = circleAsked();
    if (!asked) return;
    const mine = (going = { ...asked, n: 0 });
    start.textContent = "stop";
    const update = async ({ point, picture }) => {
      await passed(asked, point, picture);
      if (going !== mine) return;
      mine.n += 1;
      start.textContent = `stop (${mine.n} of ${360 / ROUND_STEP})`;
    };
    try {
      await ask("circle", asked, { update });
    } finally {
      if (going === mine) end();
    }
  }

  function stop() {
    if (!going) return;
    ask("cancel", { name: "circle" });
    end();
  }

  function end() {
    going = null;
    start.textContent = TITLE;
  }

  return { button: start, stop, under: () => going };
}

/** A picture from its colours, four bytes a pixel: it need not be decoded. */
function bare(view, wide) {
  const canvas = document.createElement("canvas");
  const colours = numbersIn(view, Uint8ClampedArray);
  Object.assign(canvas, { width: wide, height: colours.length / 4 / wide });
  canvas.getContext("2d").putImageData(new ImageData(colours, wide), 0, 0);
  return canvas;
}

/** Of `grid` blocks on each side; the sides of all networks are multiples of 8. */
function takeOutMeans(x, [channels, high, wide], grid) {
  const [tall, broad] = [high / grid, wide / grid];
  const sums = new Float64Array(channels * grid * grid);
  const block = (k) => {
    const [c, i, j] = [Math.floor(k / (high * wide)), Math.floor(k / wide) % high, k % wide];
    return (c * grid + Math.floor(i / tall)) * grid + Math.floor(j / broad);
  };
  x.forEach((value, k) => (sums[block(k)] += value));
  for (let k = 0; k < x.length; k++) x[k] -= sums[block(k)] / (tall * broad);
}

/** A sentence where LPIPS falls although PSNR falls and more is made up; else nothing. */
function grainPraised(now, before, measure) {
  const falls = Number(four(now.lpips)) < Number(four(before.lpips));
  const worse = Number(now.psnr.toFixed(2)) < Number(before.psnr.toFixed(2));
  if (!falls || !worse || now.made <= before.made) return "";
  return (
    `${measure} likes this grain; PSNR does not: against the plain noise, ${measure} falls from ` +
    `${four(before.lpips)} to ${four(now.lpips)}, PSNR from ${before.psnr.toFixed(2)} ` +
    `to ${now.psnr.toFixed(2)} dB.`
  );
}
