// From x_T to x_0: one picture along the ODE and along the SDE, and sixty points in the plane.

const PROCESSES = { ode: "ODE", sde: "SDE" };
const PLAY = 350; // milliseconds at each stop
const MOST_WALKS = 24; // that are kept

function trajectoryApp(place, { ask, shared, facts, guarded, still }) {
  const offered = still ? questionsKept(facts, "walk") : null;
  const first = facts.state?.trajectory ?? {};
  const state = { ...first, key: known(first.key) ?? firstKey(facts, offered) };
  state.noise = first.noise ?? 0;
  const walks = new Map();
  const abouts = new Map();
  let about = null; // what there is to choose from
  let shown = null; // the walk that is looked at
  let stale = true;
  let loading = 0; // counts what was wanted: only the newest is shown
  let asking = 0; // questions that are not answered yet

  function known(key) {
    return key in facts.shelf ? key : undefined;
  }

  const key = choice({
    label: "network, and sampler of its scores",
    options: keysOf(facts, offered),
    value: state.key,
    onchange: () => guarded(begin),
  });
  const picture = choice({ label: "picture", options: [], onchange: () => guarded(load) });
  const solver = choice({
    label: "ODE solver",
    options: among("solver", ["DDIM-20", "DPMS-20"]).map((name) => [name, name]),
    value: state.solver,
    onchange: () => guarded(load),
  });
  if (!solver.value) solver.select.selectedIndex = 0;
  const start = choice({ label: "start", options: [], onchange: () => guarded(load) });
  const anew = button("draw the SDE's noise anew", () => {
    state.noise = next();
    guarded(load);
  });
  const play = button("play", toggle, { class: "odebc-play" });
  const time = slider({
    label: "t",
    values: [0],
    show: (i) => told(i),
    oninput: () => {
      stop();
      draw();
    },
  });
  const warning = tag("p", { class: "odebc-warning", role: "status" });
  const scored = tag("p", { class: "note" });
  const result = tag("p", { class: "odebc-result", "aria-live": "polite" });
  const stopped = tag("p", { class: "note odebc-at" });
  const panes = Object.fromEntries(
    Object.entries(PROCESSES).map(([name, title]) => [name, pane(name, title)]),
  );
  const curve = lambdaCurve();
  const truth = tile("z", "the photograph (HR)");
  const blurred = tile("bicubic", "bicubic");
  place.append(
    tag(
      "p",
      {},
      "Move t from 1000, where all is noise, to 0, the result: x_t is what the solver holds, " +
        "x̂_0 the picture that the network believes in at that time. " +
        "The same start always ends in the same picture on the ODE; " +
        "the SDE draws new noise in every step and ends elsewhere.",
    ),
    row(key.node, picture.node, solver.node, start.node),
    scored,
    warning,
    row(play, time.node, anew),
    tag("div", { class: "odebc-walks" }, panes.ode.node, panes.sde.node),
    tag(
      "div",
      { class: "odebc-ends" },
      curve.node,
      blurred.node,
      truth.node,
      tag("div", { class: "odebc-told" }, result, stopped, legend()),
    ),
  );

  /** What a static page has of one argument. */
  function among(name, all) {
    if (!offered) return all;
    const there = offered.map((args) => args[name]);
    return all.filter((value) => there.includes(value));
  }

  /** The next seed; without a kernel the seeds that were kept, one after the other. */
  function next() {
    if (!offered) return state.noise + 1;
    const seeds = [...new Set(offered.map((args) => args.noise))];
    return seeds[(seeds.indexOf(state.noise) + 1) % seeds.length];
  }

  function tile(name, title) {
    const canvas = tag("canvas", { role: "img", "aria-label": title });
    const caption = tag("figcaption", {}, title);
    return {
      node: tag("figure", { class: `odebc-tile ${name}` }, canvas, caption),
      canvas,
      caption,
    };
  }

  function pane(name, title) {
    const x = tile("x_t", "x_t");
    const x0 = tile("x_0", "x̂_0");
    const toy = toyPlane(name);
    const head = tag("h4", {}, title);
    const node = tag(
      "section",
      { class: `odebc-walk ${name}`, "aria-label": title },
      head,
      tag("div", { class: "odebc-tiles" }, x.node, x0.node, toy.node),
    );
    return { node, head, x, x0, toy };
  }

  function legend() {
    const entry = (colour, text) =>
      tag("span", {}, tag("i", { class: colour, "aria-hidden": "true" }), text);
    return tag(
      "p",
      { class: "odebc-legend" },
      entry("blue", "ODE"),
      entry("orange", "SDE"),
      entry("green", "the three kinds of points that the toy knows"),
    );
  }

  /** Another network: what is there to choose from? */
  async function begin() {
    stop();
    state.key = key.value;
    const mine = ++loading;
    const wanted = { key: state.key };
    about = null;
    result.textContent = `${shortName(facts.shelf[wanted.key].network)} is being loaded …`;
    const answer = abouts.get(wanted.key) ?? (await ask("walk_about", wanted));
    abouts.set(wanted.key, answer);
    if (mine !== loading) return;
    about = answer;
    warning.textContent = about.warning;
    scored.textContent =
      `The scores in Search are of ${facts.shelf[wanted.key].sampler}; here the ODE and the SDE ` +
      "are solved anew in twenty steps, so their numbers are others.";
    const pictures = among("picture", about.shown);
    const options = pictures.map((i) => [`unseen picture ${i + 1}`, i]);
    picture.offer(options, pictures.includes(state.picture) ? state.picture : about.first);
    offerStarts();
    await load();
  }

  function offerStarts() {
    const { seed } = facts.shelf[state.key];
    const own = shared.get("start");
    const options = [
      [`the best by the scores: candidate ${about.best + 1}`, `${seed},${about.best}`],
      ["a random one", `${seed + 1},0`],
      ["another random one", `${seed + 1},1`],
    ];
    if (own && !still) {
      options.unshift([`chosen in Search: ${own.label ?? `candidate ${own.index + 1}`}`, "own"]);
    }
    const there = offered?.map(({ start: { seed, index } }) => `${seed},${index}`);
    const kept = options.filter(([, value]) => !there || there.includes(value));
    const wanted = state.start ?? kept[0]?.[1];
    start.offer(kept, kept.some(([, value]) => value === wanted) ? wanted : kept[0]?.[1]);
  }

  function startAsked() {
    if (start.value === "own") {
      const { seed, index } = shared.get("start");
      return { seed, index };
    }
    const [seed, index] = start.value.split(",").map(Number);
    return { seed, index };
  }

  /** The walk as the controls say it, solved or kept. */
  async function load() {
    stop();
    stale = false;
    if (!about) return;
    Object.assign(state, { picture: picture.value, solver: solver.value, start: start.value });
    const args = {
      key: state.key,
      picture: state.picture,
      solver: state.solver,
      start: startAsked(),
      noise: state.noise,
    };
    const mine = ++loading;
    const name = JSON.stringify(args);
    warning.textContent = [about.warning, mismatch()].filter(Boolean).join(" ");
    const kept = walks.get(name);
    if (kept && asking) ask("cancel", { name: "walk" });
    const walk = kept ?? (await solved(args, mine));
    if (mine !== loading) return;
    keep(walks, name, walk, MOST_WALKS);
    await show(walk);
  }

  /** Ask for a walk, and say how far it is. */
  async function solved(args, mine) {
    const tell = (text) => {
      if (mine === loading) result.textContent = text;
    };
    const update = ({ share }) => tell(`solving … ${percent(share)}`);
    tell("solving …");
    asking += 1;
    try {
      return await prepared(await ask("walk", args, { update }));
    } catch (error) {
      tell("");
      throw error;
    } finally {
      asking -= 1;
    }
  }

  /** A start that was chosen for something else. */
  function mismatch() {
    const own = start.value === "own" ? shared.get("start") : null;
    const here = facts.shelf[state.key].network;
    if (!own || own.network === here) return "";
    return (
      `This start was chosen for ${shortName(own.network)} with ${own.sampler}; ` +
      `for ${shortName(here)} it may be no better than a random one.`
    );
  }

  async function prepared(answer) {
    const points = (view) => numbersIn(view);
    return {
      ...answer,
      tiles: await sheet(answer.sheet, answer.side, answer.across, "image/jpeg"),
      toys: { ode: points(answer["toy ode"]), sde: points(answer["toy sde"]) },
    };
  }

  async function show(walk) {
    const before = shown;
    shown = walk;
    const n = walk.steps.ode.length;
    const wanted = before
      ? before.steps.ode[Math.min(time.value, before.steps.ode.length - 1)].t
      : (state.t ?? 400);
    const stops = walk.steps.ode.map(({ t }) => t);
    const at = stops.reduce(
      (best, t, i) => (Math.abs(t - wanted) < Math.abs(stops[best] - wanted) ? i : best),
      0,
    );
    time.over(
      Array.from({ length: n }, (_, i) => i),
      at,
    );
    for (const name of Object.keys(PROCESSES)) {
      const { head, toy } = panes[name];
      const what = name === "ode" ? "no noise but x_T" : "new noise in every step";
      head.textContent = `${PROCESSES[name]}, ${walk.labels[name]}: ${what}`;
      toy.begin(walk.toys[name], walk.points, walk.means);
    }
    curve.begin(walk.curve, stops);
    await showTruth();
    tellEnds();
    draw();
  }

  async function showTruth() {
    const i = about.shown.indexOf(state.picture);
    const pictures = await sheet(about[`pictures ${i}`], about.size, 2);
    paint(blurred.canvas, pictures.at(0));
    paint(truth.canvas, pictures.at(1));
    const { lpips, psnr } = about.bicubic[i];
    blurred.caption.textContent = `bicubic: ${about.measure} ${four(lpips)}, ${psnr.toFixed(1)} dB`;
  }

  function tellEnds() {
    const end = (name) => {
      const { lpips, psnr } = shown.ends[name];
      return [
        `${PROCESSES[name]} `,
        tag("b", { class: `number lpips-${name}` }, four(lpips)),
        " and ",
        tag("b", { class: `number psnr-${name}` }, `${psnr.toFixed(2)} dB`),
      ];
    };
    result.replaceChildren(
      `At the end, against HR, ${about.measure} and PSNR: `,
      ...end("ode"),
      "; ",
      ...end("sde"),
      ".",
    );
  }

  function told(i) {
    if (!shown) return "";
    const { t } = shown.steps.ode[i];
    return `${roundTime(t)} (stop ${i} of ${shown.steps.ode.length - 1})`;
  }

  /** Everything at the stop where the slider stands. */
  function draw() {
    if (!shown) return;
    const i = time.value;
    const at = { ode: i, sde: shown.near[i] };
    state.t = shown.steps.ode[i].t;
    for (const [name, { x, x0, toy }] of Object.entries(panes)) {
      const j = at[name];
      const line = (name === "ode" ? 0 : 2) * shown.across;
      const t = roundTime(shown.steps[name][j].t);
      paint(x.canvas, shown.tiles.at(line + j));
      paint(x0.canvas, shown.tiles.at(line + shown.across + j));
      x.canvas.setAttribute("aria-label", `x_t of the ${PROCESSES[name]} at t = ${t}`);
      x0.canvas.setAttribute("aria-label", `x̂_0 of the ${PROCESSES[name]} at t = ${t}`);
      x.caption.textContent = `x_t, t = ${t}`;
      toy.draw(j);
    }
    const { t, lam, alpha, sigma } = shown.steps.ode[i];
    const noise = lam == null ? "no noise is left" : `λ = ${minus(lam.toFixed(2))}`;
    stopped.textContent =
      `At t = ${roundTime(t)}: α = ${alpha.toFixed(3)}, σ = ${sigma.toFixed(3)}, ${noise}. ` +
      "x_t is shown divided by α + 3σ.";
    curve.draw(i);
    place.dataset.stop = i;
  }

  // it never starts by itself: nothing moves that nobody has asked for
  let ticking = null;

  function toggle() {
    if (ticking) return stop();
    if (!shown) return;
    const last = shown.steps.ode.length - 1;
    if (time.value === last) time.set(0);
    play.textContent = "pause";
    draw();
    ticking = setInterval(() => {
      if (time.value < last) time.set(time.value + 1);
      draw();
      if (time.value === last || place.hidden || !place.isConnected) stop();
    }, PLAY);
  }

  function stop() {
    clearInterval(ticking);
    ticking = null;
    play.textContent = "play";
  }

  shared.on("start", (own) => {
    stale = true;
    about = null;
    if (own?.key in facts.shelf && !still) key.set((state.key = own.key));
    state.start = "own";
    if (!place.hidden) guarded(begin);
  });
  const own = shared.get("start");
  if (own && !still) {
    if (own.key in facts.shelf) key.set((state.key = own.key));
    state.start ??= "own";
  }
  anew.hidden = still && new Set(offered.map(({ noise }) => noise)).size < 2;
  if (still) {
    const others = "Other pictures, solvers and starts need a running kernel.";
    place.append(tag("p", { class: "note" }, others));
  }
  place.odebc = { state: () => ({ ...state }), walk: () => shown };
  return {
    shown() {
      if (stale) guarded(begin);
    },
  };
}

/** The toy's points with the way that each has come. */
function toyPlane(name) {
  const at = (v) => (100 * (v + 3)) / 6; // the plane from −3 to 3
  const tails = drawn("path", { class: "tails" });
  const heads = drawn("path", { class: "heads" });
  const kinds = drawn("g", { class: "kinds" });
  const title = `toy points on the ${PROCESSES[name]}`;
  const svg = drawn(
    "svg",
    { viewBox: "0 0 100 100", role: "img", "aria-label": title },
    drawn("rect", { x: 0.5, y: 0.5, width: 99, height: 99, class: "frame" }),
    tails,
    kinds,
    heads,
  );
  const node = tag("figure", { class: "odebc-tile toy" }, svg, tag("figcaption", {}, "the toy"));
  let points = null;
  let n = 0;
  const place = (i, k) => {
    const j = 2 * (i * n + k);
    return `${at(points[j]).toFixed(2)} ${(100 - at(points[j + 1])).toFixed(2)}`;
  };
  return {
    node,
    begin(values, count, means) {
      [points, n] = [values, count];
      kinds.replaceChildren(
        ...means.map(([x, y]) => drawn("circle", { cx: at(x), cy: 100 - at(y), r: 6 })),
      );
    },
    draw(i) {
      const each = Array.from({ length: n }, (_, k) => k);
      const way = (k) => Array.from({ length: i + 1 }, (_, j) => place(j, k)).join("L");
      tails.setAttribute("d", each.map((k) => `M${way(k)}`).join(""));
      heads.setAttribute("d", each.map((k) => `M${place(i, k)}l0 0`).join(""));
    },
  };
}

/** λ over t, with all stops and the one that is looked at. */
function lambdaCurve() {
  const [wide, high, left, low] = [320, 170, 34, 26];
  const line = drawn("path", { class: "curve" });
  const ticks = drawn("g", { class: "stops" });
  const here = drawn("circle", { r: 5, class: "here" });
  const axis = drawn("g");
  const svg = drawn(
    "svg",
    { viewBox: `0 0 ${wide} ${high}`, role: "img", "aria-label": "λ over t" },
    axis,
    line,
    ticks,
    here,
  );
  const caption = "λ_t, half the logarithm of signal over noise; dots are the ODE solver's stops";
  const node = tag("figure", { class: "odebc-lambda" }, svg, tag("figcaption", {}, caption));
  let places = [];
  return {
    node,
    begin(curve, stops) {
      const lams = curve.map(([, lam]) => lam);
      const [least, most] = [Math.min(...lams), Math.max(...lams)];
      const last = curve.at(-1)[0];
      const x = (t) => left + ((wide - left - 8) * (last - t)) / last;
      const y = (lam) => high - low - ((high - low - 8) * (lam - least)) / (most - least);
      const at = (t) => {
        const time = Math.max(t, 1);
        const i = Math.max(
          1,
          curve.findIndex(([there]) => there >= time),
        );
        const [[t0, l0], [t1, l1]] = [curve[i - 1], curve[i]];
        return l0 + ((time - t0) / (t1 - t0)) * (l1 - l0);
      };
      places = stops.map((t) => [x(t), y(at(t))]);
      line.setAttribute("d", `M${curve.map(([t, lam]) => `${x(t)} ${y(lam)}`).join("L")}`);
      ticks.replaceChildren(...places.map(([cx, cy]) => drawn("circle", { cx, cy, r: 2 })));
      const word = (text, where) => drawn("text", where, text);
      const times = [last, last / 2, 0];
      axis.replaceChildren(
        drawn("path", { class: "axis", d: `M${left} 4V${high - low}H${wide - 4}` }),
        ...times.map((t) => word(`${t}`, { x: x(t), y: high - 12, "text-anchor": "middle" })),
        ...[-4, 0, 4]
          .filter((lam) => lam > least && lam < most)
          .map((lam) =>
            word(minus(`${lam}`), { x: left - 5, y: y(lam) + 4, "text-anchor": "end" }),
          ),
        word("t", { x: (x(last) + x(last / 2)) / 2, y: high - 8, "text-anchor": "middle" }),
        word("λ", { x: 4, y: 14 }),
      );
    },
    draw(i) {
      give(here, { cx: places[i][0], cy: places[i][1] });
    },
  };
}

const minus = (text) => text.replace("-", "−");
const roundTime = (t) => (Number.isInteger(t) ? `${t}` : t.toFixed(1));

APPS.trajectory = { title: "Trajectory", make: trajectoryApp };
