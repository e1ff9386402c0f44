// One noise: mixed of two, stretched, made greyer, rolled; and what the network makes of it.

const PLAIN = { tau: 1, grid: 0, grey: 1, roll: 0 };
const ROUND_STEP = 15; // degrees between the points of the circle
const MOST_RESULTS = 200; // that are kept
const AT_REST = 400; // milliseconds without a change, after which there is time for more

function noiseApp(place, { ask, shared, facts, guarded, still }) {
  const offered = still ? questionsKept(facts, "circle") : null;
  const first = facts.state?.noise ?? {};
  const state = { phi: 0, ...PLAIN, ...first };
  if (!(state.key in facts.shelf)) state.key = firstKey(facts, offered);
  const results = new Map(); // question -> result
  const trails = new Map(); // network and picture -> question -> result
  const abouts = new Map();
  let about = null;
  let pair = null; // the two noises
  let x = null; // the mixed one
  let blurred = null; // bicubic and HR, as parts of a picture
  let truth = null;
  let now = null; // the result that is shown, with its numbers
  let guessed = null; // the question for which a guess, at least, is shown
  let seen = null; // the one whose picture is shown: it comes before its numbers
  let stale = true;
  let wanted = 0; // counts what was wanted: only the newest is shown
  const asking = { result: 0, plain: 0 }; // questions that are not answered yet

  const key = choice({
    label: "network and sampler",
    options: keysOf(facts, offered),
    value: state.key,
    onchange: () => guarded(() => begin()),
  });
  const picture = choice({
    label: "picture",
    options: [],
    onchange: () => guarded(otherPicture),
  });
  const others = () => guarded(load);
  const a = slider({ label: "candidate a", values: [1], oninput: others });
  const b = slider({ label: "candidate b", values: [1], oninput: others });
  const change = () => guarded(redraw);
  const phi = slider({
    label: "angle φ",
    values: evenSteps(0, 360, still ? ROUND_STEP : 5),
    value: state.phi,
    unit: "°",
    oninput: change,
  });
  const two = (value) => value.toFixed(2);
  const tau = slider({
    label: "length τ",
    values: evenSteps(0.5, 1.5, 0.01),
    value: state.tau,
    unit: " √n",
    show: two,
    oninput: change,
  });
  const grey = slider({
    label: "grey part ×",
    values: evenSteps(0.5, 1.5, 0.01),
    value: state.grey,
    show: two,
    oninput: change,
  });
  const roll = slider({ label: "roll", values: [0], unit: " px", oninput: change });
  const grid = choice({
    label: "take out",
    options: [
      ["nothing", 0],
      ["channel means", 1],
      ["means of 8×8 blocks", 8],
    ],
    value: state.grid,
    onchange: change,
  });
  const back = button("back to plain", plain);
  const trip = still ? null : roundTrip({ ask, guarded, circleAsked, passed });
  const warning = tag("p", { class: "odebc-warning", role: "status" });
  const what = tag("p", { class: "note odebc-start" });
  const numbers = tag("p", { class: "odebc-numbers", "aria-live": "polite" });
  const comment = tag("p", { class: "odebc-comment", role: "status" });
  const compared = comparison({
    left: 1,
    right: 3,
    width: 640,
    height: 300,
    name: "the noise, its result, bicubic and the photograph",
  });
  const canvas = document.createElement("canvas");
  const plane = detailPlane();
  const polar = circlePlot();
  const needs = [tau.node, grey.node, roll.node, grid.node, back, a.node, b.node];
  place.append(
    tag(
      "p",
      {},
      "cos φ·a + sin φ·b leads round a circle through two noises: 0° is a, 90° is b, 180° is −a. " +
        "Change the noise and watch its result x_0: " +
        "the network takes most of what it makes up from there.",
    ),
    warning,
    tag(
      "div",
      { class: "odebc-columns" },
      tag(
        "div",
        { class: "odebc-controls" },
        key.node,
        picture.node,
        a.node,
        b.node,
        phi.node,
        tau.node,
        grey.node,
        roll.node,
        grid.node,
        row(back, trip?.button),
        what,
      ),
      tag("div", { class: "odebc-pictures" }, compared.node, numbers, comment),
      tag("div", { class: "odebc-plots" }, plane.node, polar.node),
    ),
  );
  if (still) {
    needs.forEach((node) => (node.hidden = true));
    const why = "Other candidates, length, grey part, rolling and taking out need a kernel.";
    place.append(tag("p", { class: "note" }, why));
  }

  /** Another network, or another seed: what is there to choose from? */
  async function begin(seed, index) {
    trip?.stop();
    const mine = ++wanted;
    const asked = key.value;
    about = null;
    pair = null;
    numbers.textContent = `${shortName(facts.shelf[asked].network)} is being loaded …`;
    const answer = await busy(mine, async () => abouts.get(asked) ?? (await askAbout(asked)));
    if (mine !== wanted) return;
    stale = false;
    const { K, seed: own } = facts.shelf[asked];
    const same = state.key === asked;
    about = answer;
    state.key = asked;
    state.seed = seed ?? (same ? (state.seed ?? own) : own);
    const numbersOf = Array.from({ length: K }, (_, i) => i + 1);
    const far = Math.max(K, (index ?? 0) + 1);
    const longer = far > K ? [...numbersOf, far] : numbersOf;
    const keepsA = same && state.a != null && seed == null;
    a.over(longer, (index ?? (keepsA ? state.a : about.best)) + 1);
    b.over(numbersOf, (same && state.b != null ? state.b : about.worst) + 1);
    roll.over(evenSteps(0, about.size - 1, 1), state.roll);
    if (offered) fixed(asked);
    const options = picturesOffered().map((i) => [`unseen picture ${i + 1}`, i]);
    const there = options.some(([, i]) => i === state.picture);
    picture.offer(options, there ? state.picture : about.first);
    await otherPicture();
  }

  async function askAbout(asked) {
    const answer = await ask("noise_about", { key: asked });
    abouts.set(asked, answer);
    return answer;
  }

  /** What is shown is not yet what the controls say. */
  async function busy(mine, work) {
    place.setAttribute("aria-busy", "true");
    try {
      return await work();
    } finally {
      if (mine === wanted) place.setAttribute("aria-busy", "false");
    }
  }

  function picturesOffered() {
    if (!offered) return about.shown;
    return about.shown.filter((i) => offered.some((args) => args.picture === i));
  }

  /** A static page knows one circle: that of these two. */
  function fixed(asked) {
    const args = offered.find((one) => one.key === asked);
    a.set(args.a + 1);
    b.set(args.b + 1);
    state.seed = args.seed;
  }

  async function otherPicture() {
    trip?.stop();
    const i = about.shown.indexOf(picture.value);
    state.picture = picture.value;
    const both = await sheet(about[`pictures ${i}`], about.size, 2);
    [blurred, truth] = [both.at(0), both.at(1)];
    now = null;
    await load();
  }

  /** The two noises, then all the rest. */
  async function load() {
    if (!about) return;
    const asked = { key: state.key, seed: state.seed, a: a.value - 1, b: b.value - 1 };
    const mine = ++wanted;
    if (!sameAs(trip?.under(), asked)) trip?.stop();
    if (!sameAs(pair?.asked, asked)) {
      const answer = await ask("noises", asked);
      if (mine !== wanted) return;
      const [one, other] = [numbersIn(answer.a), numbersIn(answer.b)];
      pair = { asked, a: one, b: other, shape: answer.shape };
      Object.assign(state, { a: asked.a, b: asked.b });
    }
    warning.textContent = [about.warning, mismatch()].filter(Boolean).join(" ");
    if (still) await readCircle();
    await redraw();
  }

  function sameAs(some, asked) {
    return some && ["key", "seed", "a", "b"].every((name) => some[name] === asked[name]);
  }

  /** A start that was chosen for another network. */
  function mismatch() {
    const own = shared.get("start");
    const here = facts.shelf[state.key].network;
    if (!own || own.network === here) return "";
    if (own.seed !== state.seed || own.index !== state.a) return "";
    return (
      `Candidate ${own.index + 1} was chosen for ${shortName(own.network)} with ` +
      `${own.sampler}; for ${shortName(here)} it may be no better than a random one.`
    );
  }

  /** The question that the controls stand for; 360° is 0°. */
  function question(how = {}) {
    return {
      key: state.key,
      picture: state.picture,
      seed: state.seed,
      a: state.a,
      b: state.b,
      phi: state.phi % 360,
      tau: state.tau,
      grid: state.grid,
      grey: state.grey,
      roll: state.roll,
      ...how,
    };
  }

  /** The noise at once, its picture when it is there, and then the numbers of it. */
  async function redraw() {
    if (!pair) return;
    Object.assign(state, { phi: phi.value, tau: tau.value, grey: grey.value });
    Object.assign(state, { roll: roll.value, grid: grid.value });
    const mine = ++wanted;
    const asked = question();
    const known = results.get(JSON.stringify(asked));
    for (const name of known ? ["result", "plain"] : ["plain"]) {
      if (asking[name]) ask("cancel", { name });
    }
    // asked before anything is drawn: the kernel works meanwhile
    const update = (told) => guarded(() => developing(told, mine, asked));
    const coming = known ?? solved("result", asked, update);
    x = mixedNoise(pair.a, pair.b, pair.shape, state);
    drawNoise(canvas, x, pair.shape);
    tellNoise();
    if (!known) showWaiting(now?.part, "solving …");
    const result = await busy(mine, () => coming);
    if (mine !== wanted) return;
    now = result;
    guessed = seen = asked;
    show();
    await plainBeside(mine);
  }

  /** What the network believes on the way to x_0, and x_0 itself before it is measured. */
  function developing({ colours, wide, done, calls }, mine, asked) {
    if (mine !== wanted || place.getAttribute("aria-busy") === "false") return;
    const solved = done === calls;
    const note = solved ? "measuring …" : `a guess after ${done} of ${calls} calls`;
    showWaiting(whole(bare(colours, wide)), note);
    guessed = asked;
    if (solved) seen = asked;
  }

  async function solved(kind, asked, update) {
    asking[kind] += 1;
    try {
      const answer = await ask(kind, asked, { update });
      return remember(asked, answer, whole(await decoded(answer.picture)));
    } finally {
      asking[kind] -= 1;
    }
  }

  function whole(image) {
    return { image, x: 0, y: 0, width: image.width, height: image.height };
  }

  function remember(asked, { lpips, psnr, right, made, length }, part) {
    const result = { lpips, psnr, right, made, length, part, asked };
    const name = JSON.stringify(asked);
    const trail = `${asked.key} ${asked.picture}`;
    if (!trails.has(trail)) trails.set(trail, new Map());
    trails.get(trail).set(name, { lpips, right, made, asked });
    return keep(results, name, result, MOST_RESULTS);
  }

  /** What the same mixture does when nothing else is changed, to compare with. */
  async function plainBeside(mine) {
    const asked = question(PLAIN);
    if (still || isPlain(state) || results.has(JSON.stringify(asked))) return;
    await new Promise((done) => setTimeout(done, AT_REST));
    if (mine !== wanted) return; // a slider that is dragged has more urgent questions
    await solved("plain", asked);
    if (mine === wanted) show();
  }

  /** The result that the controls stand for, with all that is known of it. */
  function show() {
    showPictures(now.part, scored(now));
    tellResult("x_0");
    const trail = trailNow();
    plane.draw([...trail.values()], now, bicubic());
    polar.draw(pointsRound(trail), state, bicubic(), about.measure);
  }

  /** Only what changes before the result is there. */
  function showWaiting(part, note) {
    showPictures(part ?? null, note);
    tellResult("the x_0 before");
    plane.wait();
    polar.turn(state.phi);
  }

  function showPictures(part, note) {
    compared.show([
      { label: "x_T", note: "from −3 to 3", part: x && whole(canvas) },
      { label: "x_0", note, part },
      { label: "bicubic", note: scored(bicubic()), part: blurred },
      { label: "HR", note: "the photograph", part: truth },
    ]);
  }

  function scored({ lpips, psnr }) {
    return `${about.measure} ${four(lpips)}, ${psnr.toFixed(1)} dB`;
  }

  function trailNow() {
    return trails.get(`${state.key} ${state.picture}`) ?? new Map();
  }

  function bicubic() {
    return about.bicubic[about.shown.indexOf(state.picture)];
  }

  /** All that is known of this circle: results of plain mixtures of the same two. */
  function pointsRound(trail) {
    const mine = [...trail.values()].filter(
      ({ asked }) => sameAs(asked, question()) && isPlain(asked),
    );
    return mine
      .map(({ asked, lpips }) => ({ phi: asked.phi, lpips }))
      .sort((one, other) => one.phi - other.phi);
  }

  /** What is said of the noise itself; nothing of it needs the network. */
  function tellNoise() {
    const { length, deviation } = noiseFacts(x, pair.shape);
    const seed = state.seed === facts.shelf[state.key].seed ? "" : ` of seed ${state.seed}`;
    what.replaceChildren(
      `Candidates ${state.a + 1} and ${state.b + 1}${seed}. This x_T is `,
      tag("b", { class: "number length" }, length.toFixed(3)),
      " √n long, its grey part has the standard deviation ",
      tag("b", { class: "number deviation" }, deviation.toFixed(3)),
      " (Gaussian noise: 0.577). ",
      "Results are solved anew, one at a time: a score may lie some hundredths beside that in " +
        "Search, which was rounded otherwise.",
    );
  }

  function tellResult(name) {
    if (!now) return;
    const number = (kind, text) => tag("b", { class: `number ${kind}` }, text);
    numbers.replaceChildren(
      `${name}: ${about.measure} `,
      number("lpips", four(now.lpips)),
      ", PSNR ",
      number("psnr", `${now.psnr.toFixed(2)} dB`),
      "; detail that is right ",
      number("right", now.right.toFixed(2)),
      ", made up ",
      number("made", now.made.toFixed(2)),
      ".",
    );
    const before = isPlain(state) ? null : results.get(JSON.stringify(question(PLAIN)));
    comment.textContent = before ? grainPraised(now, before, about.measure) : "";
  }

  function plain() {
    tau.set(1);
    grey.set(1);
    roll.set(0);
    grid.set(0);
    change();
  }

  /** The circle of these two, on this picture; null as long as there are none. */
  function circleAsked() {
    const { key: of, picture: i, seed, a: one, b: other } = question();
    return pair && { key: of, picture: i, seed, a: one, b: other };
  }

  /** A point of the circle, and its picture. */
  async function passed(asked, point, bytes) {
    const part = whole(await decoded(bytes));
    remember({ ...question(PLAIN), ...asked, phi: point.phi }, point, part);
    if (!now || !sameAs(asked, question())) return;
    const trail = trailNow();
    plane.draw([...trail.values()], now, bicubic());
    polar.draw(pointsRound(trail), state, bicubic(), about.measure);
  }

  /** The circle that a static page has kept. */
  async function readCircle() {
    const { points, sheet: view, side, across } = await ask("circle", circleAsked());
    const pictures = await sheet(view, side, across, "image/jpeg");
    points.forEach((point, n) => {
      remember({ ...question(PLAIN), phi: point.phi }, point, pictures.at(n));
    });
  }

  function follow(own) {
    if (!own || still || !(own.key in facts.shelf)) return false;
    key.set(own.key);
    return true;
  }

  shared.on("start", (own) => {
    if (!follow(own)) return;
    stale = true;
    if (!place.hidden) guarded(() => begin(own.seed, own.index));
  });
  place.odebc = {
    noise: () => x,
    state: () => ({ ...state }),
    result: () => now,
    guessed: () => guessed,
    seen: () => seen,
  };
  return {
    shown() {
      if (!stale) return;
      const own = shared.get("start");
      if (follow(own)) guarded(() => begin(own.seed, own.index));
      else guarded(() => begin());
    },
  };
}

const isPlain = (state) => Object.entries(PLAIN).every(([name, value]) => state[name] === value);

/** The same as `mixed` in Python: see Walks, under the hood. */
function mixedNoise(a, b, [channels, high, wide], { phi, tau, grid, grey, roll }) {
  const n = a.length;
  const area = high * wide;
  const angle = (phi * Math.PI) / 180;
  const [cos, sin] = [Math.cos(angle), Math.sin(angle)];
  const x = Float64Array.from(a, (value, i) => cos * value + sin * b[i]);
  if (grid) takeOutMeans(x, [channels, high, wide], grid);
  const scale = (tau * Math.sqrt(n)) / Math.sqrt(x.reduce((sum, v) => sum + v * v, 0));
  const made = new Float32Array(n);
  for (let i = 0; i < area; i++) {
    const column = i % wide;
    const to = i - column + ((column + roll) % wide);
    let sum = 0;
    for (let c = 0; c < channels; c++) sum += x[c * area + i];
    const more = ((grey - 1) * sum) / channels;
    for (let c = 0; c < channels; c++) made[c * area + to] = scale * (x[c * area + i] + more);
  }
  return made;
}

/** Length in units of √n, and the standard deviation of the mean over channels. */
function noiseFacts(x, [channels, high, wide]) {
  const area = high * wide;
  let [all, sum, squares] = [0, 0, 0];
  for (let i = 0; i < area; i++) {
    let grey = 0;
    for (let c = 0; c < channels; c++) {
      const value = x[c * area + i];
      grey += value / channels;
      all += value * value;
    }
    sum += grey;
    squares += grey * grey;
  }
  const deviation = Math.sqrt(Math.max(squares / area - (sum / area) ** 2, 0));
  return { length: Math.sqrt(all / x.length), deviation };
}

/** Noise from −3 to 3 as colours. */
function drawNoise(canvas, x, [, high, wide]) {
  canvas.width = wide;
  canvas.height = high;
  const area = high * wide;
  const image = new ImageData(wide, high);
  for (let i = 0; i < area; i++) {
    for (let c = 0; c < 3; c++) image.data[4 * i + c] = 127.5 + 42.5 * x[c * area + i];
    image.data[4 * i + 3] = 255;
  }
  canvas.getContext("2d").putImageData(image, 0, 0);
}

/** Detail that is right against detail that is made up, for all results so far. */
function detailPlane() {
  const [wide, high, left, low] = [300, 210, 38, 34];
  const x = (right) =>
    left + ((wide - left - 10) * (Math.min(Math.max(right, -0.1), 1.2) + 0.1)) / 1.3;
  const dots = drawn("g", { class: "before" });
  const here = drawn("path", { class: "now" });
  const marks = drawn("g");
  const axis = drawn("g");
  const title = "detail that is right, and detail that is made up";
  const svg = drawn("svg", { viewBox: `0 0 ${wide} ${high}`, role: "img", "aria-label": title });
  svg.append(axis, dots, marks, here);
  const legend = tag(
    "figcaption",
    { class: "odebc-legend" },
    ...[
      ["blue", "before"],
      ["star", "now"],
      ["square", "bicubic"],
      ["green", "HR"],
    ].map(([kind, text]) =>
      tag("span", {}, tag("i", { class: kind, "aria-hidden": "true" }), text),
    ),
  );
  const beyond = tag("span", { hidden: true }, "at the upper edge: more than 3");
  legend.append(beyond);
  const node = tag("figure", { class: "odebc-plane" }, svg, legend);
  return {
    node,
    draw(all, now, bicubic) {
      const far = 1.08 * Math.max(1, bicubic.made, ...all.map(({ made }) => made));
      const most = Math.min(far, 3); // what lies beyond is shown at the edge
      beyond.hidden = far === most;
      const y = (made) => high - low - ((high - low - 8) * Math.min(made, most)) / most;
      const word = (text, where) => drawn("text", where, text);
      axis.replaceChildren(
        drawn("path", { class: "axis", d: `M${left} 6V${high - low}H${wide - 6}` }),
        ...[0, 0.5, 1].map((v) =>
          word(`${v}`, { x: x(v), y: high - low + 14, "text-anchor": "middle" }),
        ),
        ...evenSteps(0, Math.floor(most), most > 2 ? 1 : 0.5).map((v) =>
          word(`${v}`, { x: left - 5, y: y(v) + 4, "text-anchor": "end" }),
        ),
        word("detail that is right", { x: wide / 2 + 12, y: high - 4, "text-anchor": "middle" }),
        word("made up", {
          transform: `translate(11 ${high / 2 - 10}) rotate(-90)`,
          "text-anchor": "middle",
        }),
      );
      dots.replaceChildren(
        ...all.map(({ right, made }) => drawn("circle", { cx: x(right), cy: y(made), r: 3 })),
      );
      const [bx, by] = [x(bicubic.right), y(bicubic.made)];
      const [hx, hy] = [x(1), y(0)];
      marks.replaceChildren(
        drawn("rect", { class: "square", x: bx - 4, y: by - 4, width: 8, height: 8 }),
        drawn("path", { class: "hr", d: `M${hx} ${hy - 6}l6 6l-6 6l-6 -6Z` }),
      );
      here.setAttribute("d", now ? star(x(now.right), y(now.made), 8) : "");
      const where = now
        ? `; now right ${now.right.toFixed(2)}, made up ${now.made.toFixed(2)}`
        : "";
      svg.setAttribute("aria-label", `${title}: ${counted(all.length, "result")}${where}`);
    },
    wait: () => here.setAttribute("d", ""),
  };
}

function star(x, y, r) {
  const corners = Array.from({ length: 10 }, (_, i) => {
    const [angle, far] = [(i * Math.PI) / 5 - Math.PI / 2, i % 2 ? 0.42 * r : r];
    return `${(x + far * Math.cos(angle)).toFixed(2)} ${(y + far * Math.sin(angle)).toFixed(2)}`;
  });
  return `M${corners.join("L")}Z`;
}

/** LPIPS as the distance from the middle, over the angle φ. */
function circlePlot() {
  const [side, far] = [240, 88];
  const rings = drawn("g", { class: "rings" });
  const compare = drawn("circle", { cx: side / 2, cy: side / 2, class: "bicubic" });
  const line = drawn("path", { class: "round" });
  const dots = drawn("g", { class: "before" });
  const hand = drawn("path", { class: "hand" });
  const here = drawn("path", { class: "now" });
  const ends = drawn("g");
  const svg = drawn("svg", {
    viewBox: `0 0 ${side} ${side}`,
    role: "img",
    "aria-label": "the circle",
  });
  svg.append(rings, compare, line, dots, hand, here, ends);
  const caption = tag("figcaption", {});
  const node = tag("figure", { class: "odebc-circle" }, svg, caption);
  const at = (phi, r) => {
    const angle = (phi * Math.PI) / 180;
    return [side / 2 + r * Math.cos(angle), side / 2 - r * Math.sin(angle)];
  };
  const word = ([x, y], text) =>
    drawn("text", { x, y: y + 4, "text-anchor": "middle", class: "halo" }, text);
  ["a", "b", "−a", "−b"].forEach((name, i) => ends.append(word(at(90 * i, far + 18), name)));

  function turn(phi) {
    const [x, y] = at(phi, far + 6);
    hand.setAttribute("d", `M${side / 2} ${side / 2}L${x} ${y}`);
    here.setAttribute("d", "");
  }

  return {
    node,
    turn,
    draw(points, state, bicubic, measure) {
      const { phi } = state;
      const most = Math.max(bicubic.lpips, ...points.map(({ lpips }) => lpips));
      const step = niceStep(most / 3);
      const r = (lpips) => (far * lpips) / most;
      const levels = evenSteps(step, Math.floor(most / step + 1e-9) * step, step);
      rings.replaceChildren(
        ...levels.flatMap((lpips) => [
          drawn("circle", { cx: side / 2, cy: side / 2, r: r(lpips) }),
          word(at(67, r(lpips)), `${lpips}`),
        ]),
      );
      compare.setAttribute("r", r(bicubic.lpips));
      const places = points.map((point) => at(point.phi, r(point.lpips)));
      dots.replaceChildren(...places.map(([cx, cy]) => drawn("circle", { cx, cy, r: 2.5 })));
      const parts = places.map(([x, y], i) => {
        const gap = i ? points[i].phi - points[i - 1].phi : Infinity;
        return `${gap <= ROUND_STEP ? "L" : "M"}${x.toFixed(2)} ${y.toFixed(2)}`;
      });
      const last = points.at(-1);
      if (last && points[0].phi + 360 - last.phi <= ROUND_STEP) {
        parts.push(`L${places[0].map((v) => v.toFixed(2)).join(" ")}`);
      }
      line.setAttribute("d", parts.join(""));
      turn(phi);
      const known = isPlain(state) && points.find((point) => point.phi === phi % 360);
      here.setAttribute("d", known ? star(...at(phi, r(known.lpips)), 8) : "");
      caption.textContent = toldRound(points, measure);
      svg.setAttribute("aria-label", `the circle: ${caption.textContent}`);
    },
  };
}

function toldRound(points, measure) {
  const axis = `${measure} over φ, 0 in the middle; dashed: bicubic`;
  if (points.length < 3) return axis;
  const sorted = [...points].sort((one, other) => one.lpips - other.lpips);
  const told = ({ lpips, phi }) => `${lpips.toFixed(3)} at ${phi}°`;
  return `${axis}. Best ${told(sorted[0])}, worst ${told(sorted.at(-1))}`;
}

/** 1, 2 or 5 times a power of ten, not below a number. */
function niceStep(least) {
  const ten = 10 ** Math.floor(Math.log10(least));
  return Number(([1, 2, 5, 10].find((m) => m * ten >= least) * ten).toPrecision(1));
}

APPS.noise = { title: "Noise", make: noiseApp };
