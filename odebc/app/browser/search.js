// The search app: Eq. 20 on a matrix of scores, under sliders for R and K, and a live search.

const DECIBELS = (mse) => `${(10 * Math.log10(4 / mse)).toFixed(1)} dB`; // of [-1, 1]
const BEFORE = 3; // pictures on the sheet before the candidates: bicubic, random, HR

/** 0 … n − 1, shuffled as `odebc.app.views.order` does. */
function order(n, shuffle) {
  const numbers = Array.from({ length: n }, (_, i) => i);
  if (!shuffle) return numbers;
  let state = BigInt(shuffle);
  for (let i = n - 1; i > 0; i--) {
    state = (1664525n * state + 1013904223n) % 2n ** 32n;
    const j = Number((state * BigInt(i + 1)) / 2n ** 32n);
    [numbers[i], numbers[j]] = [numbers[j], numbers[i]];
  }
  return numbers;
}

/** A matrix of scores, K candidates on R reference and U unseen pairs, in several distances. */
function scoreMatrix(answer, { K, R, U }) {
  const width = R + U;
  const all = Object.fromEntries(answer.distances.map((d) => [d, numbersIn(answer[d])]));
  const bicubic = numbersIn(answer.bicubic);
  const draws = numbersIn(answer.draws, Int16Array);
  const unseenMeans = Object.fromEntries(
    answer.distances.map((d) => {
      const row = (k) => mean(all[d].subarray(k * width + R, (k + 1) * width));
      return [d, Array.from({ length: K }, (_, k) => row(k))];
    }),
  );
  return {
    K,
    R,
    U,
    distances: answer.distances,
    shown: answer.shown,
    repeats: draws.length / (K + R),
    at: (d, k, i) => all[d][k * width + i],
    unseen: (d, k, u) => all[d][k * width + R + u],
    unseenMean: (d, k) => unseenMeans[d][k],
    bicubic: (d, u) => bicubic[answer.distances.indexOf(d) * U + u],
    drawnRows: (b) => draws.subarray(b * (K + R), b * (K + R) + K),
    drawnColumns: (b) => draws.subarray(b * (K + R) + K, (b + 1) * (K + R)),
  };
}

/** Mean score of each of the rows on the columns. */
function meansOf(D, distance, rows, columns) {
  return Array.from(rows, (k) => {
    let sum = 0;
    for (const i of columns) sum += D.at(distance, k, i);
    return sum / columns.length;
  });
}

const smallest = (values) => values.indexOf(Math.min(...values));

/** Eq. 20: the winner among the rows, and what it and a random start score. */
function pick(D, distance, rows, columns) {
  const means = meansOf(D, distance, rows, columns);
  const place = smallest(means);
  return { index: rows[place], score: means[place], random: mean(means), means };
}

/** Winners of the resampled searches: by number of pairs (K fixed), by candidates (R fixed). */
function resampledWinners(D, distance, K, R) {
  const overR = [];
  const overK = [];
  for (let b = 0; b < D.repeats; b++) {
    const rows = D.drawnRows(b);
    const columns = D.drawnColumns(b);
    const sums = new Float64Array(K);
    overR.push(
      Array.from(columns, (i) => {
        let best = 0;
        for (let k = 0; k < K; k++) {
          sums[k] += D.at(distance, rows[k], i);
          if (sums[k] < sums[best]) best = k;
        }
        return rows[best];
      }),
    );
    let best = 0;
    let least = Infinity;
    overK.push(
      Array.from(rows, (row, k) => {
        let sum = 0;
        for (let i = 0; i < R; i++) sum += D.at(distance, row, columns[i]);
        if (sum < least) [least, best] = [sum, k];
        return rows[best];
      }),
    );
  }
  return { overR, overK };
}

/** Mean unseen score of the winners at each place, and where 80 % of them lie. */
function band(D, distance, winners) {
  return winners[0].map((_, n) => {
    const scores = winners.map((row) => D.unseenMean(distance, row[n])).sort((a, b) => a - b);
    const tenth = Math.floor(scores.length / 10);
    return { mean: mean(scores), low: scores[tenth], high: scores.at(-1 - tenth) };
  });
}

/** How much lower winners score on unseen pairs than a random candidate, and its error. */
function expectedGain(D, distance, winners) {
  const gains = Array.from({ length: D.U }, (_, u) => {
    let all = 0;
    for (let k = 0; k < D.K; k++) all += D.unseen(distance, k, u);
    return all / D.K - mean(winners.map((k) => D.unseen(distance, k, u)));
  });
  const searches = winners.map((k) => D.unseenMean(distance, k));
  return { gain: mean(gains), error: Math.hypot(standardError(gains), standardError(searches)) };
}

function standardError(values) {
  const middle = mean(values);
  const squares = values.reduce((sum, value) => sum + (value - middle) ** 2, 0);
  return Math.sqrt(squares / (values.length - 1) / values.length);
}

/** The start in the middle of all on one unseen pair: half are better there, half are worse. */
function typical(D, u) {
  const all = Array.from({ length: D.K }, (_, k) => k);
  all.sort((one, other) => D.unseen("LPIPS", one, u) - D.unseen("LPIPS", other, u));
  return all[Math.floor(D.K / 2)];
}

/** How often a start beats another candidate on an unseen pair. */
function winRate(D, distance, index) {
  let wins = 0;
  for (let k = 0; k < D.K; k++) {
    for (let u = 0; u < D.U; u++) {
      wins += D.unseen(distance, index, u) < D.unseen(distance, k, u);
    }
  }
  return wins / ((D.K - 1) * D.U);
}

// colours of a scale that everybody can read: dark blue is low, yellow is high (cividis)
const SCALE = [
  [0, 34, 78],
  [66, 78, 108],
  [124, 123, 120],
  [187, 173, 108],
  [254, 232, 56],
];

function colour(share) {
  const place = Math.min(Math.max(share, 0), 1) * (SCALE.length - 1);
  const i = Math.min(Math.floor(place), SCALE.length - 2);
  return SCALE[i].map((low, c) => low + (place - i) * (SCALE[i + 1][c] - low));
}

/** A canvas with one pixel for each score; missing ones stay empty. */
function heat(canvas, rows, columns, score, [low, high]) {
  canvas.width = columns;
  canvas.height = rows;
  const context = canvas.getContext("2d");
  const image = context.createImageData(columns, rows);
  for (let k = 0; k < rows; k++) {
    for (let i = 0; i < columns; i++) {
      const value = score(k, i);
      if (Number.isNaN(value)) continue;
      const pixel = [...colour((value - low) / (high - low)), 255];
      image.data.set(pixel, 4 * (k * columns + i));
    }
  }
  context.putImageData(image, 0, 0);
}

/** The heat map of D: rows are candidates, columns pairs, then a gap, then unseen pairs. */
function heatMap(onpick) {
  const gap = 1;
  const canvas = tag("canvas", { class: "odebc-heat" });
  const frame = tag("div", { class: "odebc-frame" });
  const marker = tag("div", { class: "odebc-marker" });
  const area = tag("div", { class: "odebc-heatmap" }, canvas, frame, marker);
  const ends = tag("span", { class: "odebc-scale" });
  const legend = tag("div", { class: "note" }, ends);
  const under = tag("div", { class: "odebc-under note" });
  let shown;

  area.addEventListener("click", (event) => {
    const box = canvas.getBoundingClientRect();
    const place = Math.floor(((event.clientY - box.top) / box.height) * shown.rows.length);
    onpick(shown.rows[Math.min(Math.max(place, 0), shown.rows.length - 1)]);
  });

  function draw(D, distance, rows, columns) {
    const width = columns.length + gap + D.U;
    const score = (k, i) => {
      if (i < columns.length) return D.at(distance, rows[k], columns[i]);
      const u = i - columns.length - gap;
      return u < 0 ? NaN : D.unseen(distance, rows[k], u);
    };
    // pictures differ more than starts: each pair is shown against its own mean
    const means = Array.from({ length: width }, (_, i) => mean(rows.map((_, k) => score(k, i))));
    const against = (k, i) => score(k, i) / means[i];
    const values = rows.flatMap((_, k) => columns.map((_, i) => against(k, i)));
    values.sort((a, b) => a - b);
    const at = (share) => values[Math.floor(share * (values.length - 1))];
    const limits = [at(0.02), at(0.98)];
    heat(canvas, rows.length, width, against, limits);
    shown = { rows, width };
    ends.replaceChildren(
      `${distance}: ${limits[0].toFixed(2)} `,
      tag("i", { class: "odebc-colours" }),
      ` ${limits[1].toFixed(2)} × the pair's mean`,
    );
    const parts = [
      tag("span", {}, counted(columns.length, "reference pair")),
      tag("span", {}, `${D.U} unseen`),
    ];
    parts[0].style.flexGrow = columns.length;
    parts[1].style.flexGrow = gap + D.U;
    under.replaceChildren(...parts);
  }

  function mark(K, R, index) {
    const part = (n, all) => `${(100 * n) / all}%`;
    frame.style.height = part(K, shown.rows.length);
    frame.style.width = part(R, shown.width);
    const place = shown.rows.indexOf(index);
    marker.style.top = part(place + 0.5, shown.rows.length);
    const what = `Scores: candidates down, pairs across. The frame holds the first ${K} `;
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", `${what} candidates and ${R} pairs; row ${place + 1}`);
  }

  const title = tag("div", { class: "note" }, "a row is a candidate, a column a pair");
  return { node: tag("div", {}, title, area, under, legend), draw, mark };
}

/** Marks of a logarithmic axis. */
const ticksUpTo = (n) => [1, 2, 4, 8, 16, 32, 64, 128, 256].filter((tick) => tick <= n);

/** A panel of the figure: a curve with its band, a star for this choice, a line for random. */
function curvePanel(symbol, what) {
  const [width, height] = [230, 170];
  const [left, right, top, bottom] = [44, 6, 6, 30];
  const layers = {
    band: drawn("path", { fill: "var(--blue)", "fill-opacity": 0.25 }),
    line: drawn("path", { fill: "none", stroke: "var(--blue)", "stroke-width": 2 }),
    random: drawn("path", { stroke: "currentColor", "stroke-dasharray": "4 3" }),
    star: drawn("circle", { r: 5, fill: "var(--orange)", stroke: "var(--paper)" }),
    axes: drawn("g", { class: "axes" }),
  };
  const box = { viewBox: `0 0 ${width} ${height}`, role: "img" };
  const node = drawn("svg", box, ...Object.values(layers));

  function draw({ points, n, value, random, limits: [low, high], fixed }) {
    const most = Math.log(Math.max(points.length, 2));
    const x = (place) => left + ((width - left - right) * Math.log(place)) / most;
    const y = (v) => top + ((high - v) / (high - low)) * (height - top - bottom);
    const inside = (v) => y(Math.min(Math.max(v, low), high)).toFixed(1);
    const along = (name) => points.map((p, i) => `${x(i + 1).toFixed(1)},${inside(p[name])}`);
    const [up, down] = [along("high"), along("low").reverse()];
    layers.band.setAttribute("d", `M${[...up, ...down].join("L")}Z`);
    layers.line.setAttribute("d", `M${along("mean").join("L")}`);
    layers.random.setAttribute("d", `M${left},${inside(random)}H${width - right}`);
    layers.star.setAttribute("cx", x(n));
    layers.star.setAttribute("cy", inside(value));
    const text = (words, attributes) => drawn("text", attributes, words);
    const heights = [0.1, 0.5, 0.9].map((share) => low + share * (high - low));
    layers.axes.replaceChildren(
      drawn("path", {
        d: `M${left},${top}V${height - bottom}H${width - right}`,
        fill: "none",
        stroke: "currentColor",
      }),
      ...ticksUpTo(points.length).map((tick) => {
        const at = { x: x(tick), y: height - bottom + 13, "text-anchor": "middle" };
        return text(String(tick), at);
      }),
      ...heights.map((v) => text(v.toFixed(3), { x: left - 3, y: y(v) + 4, "text-anchor": "end" })),
      text(`${symbol}, ${what} (${fixed})`, {
        x: (left + width) / 2,
        y: height - 3,
        "text-anchor": "middle",
      }),
    );
    const label = `score on unseen pictures over ${symbol}; at ${n}: ${four(value)}`;
    node.setAttribute("aria-label", label);
  }

  return { node, draw };
}

const PRESETS = [
  {
    text: "one pair, many candidates",
    why: "The winner's curse: with R = 1 the winner looks far better on its pair than it is.",
    set: ({ K }) => ({ R: 1, K }),
  },
  {
    text: "many pairs, few candidates",
    why: "Honest, but there is little to choose from.",
    set: ({ R }) => ({ R, K: 4 }),
  },
  {
    text: "all of both",
    why: "The best that these scores allow.",
    set: ({ K, R }) => ({ R, K }),
  },
];
const INDIFFERENT = "the network that does not care";

function searchApp(place, { ask, shared, facts, guarded, still }) {
  const keys = Object.keys(facts.shelf);
  const given = { key: firstKey(facts), distance: "LPIPS", shuffle: 0, ...facts.state?.search };
  const state = { key: given.key, distance: given.distance, shuffle: given.shuffle };
  const known = new Map(); // key -> matrix and sheet
  let D, pictures, rows, columns, randomUnseen;
  let chosen = null; // a candidate that was clicked; null: the winner is shown

  const network = choice({
    label: "network",
    options: keysOf(facts),
    value: state.key,
    onchange: (key) => guarded(() => open(key)),
  });
  const distance = choice({
    label: "distance",
    options: [["LPIPS", "LPIPS"]],
    onchange: (name) => {
      state.distance = name;
      redrawMap();
    },
  });
  const free = () => {
    chosen = null;
    later();
  };
  const R = slider({ label: "R, pairs", values: [1], oninput: free });
  const K = slider({ label: "K, candidates", values: [1], oninput: free });
  const picture = choice({ label: "picture", options: [], onchange: () => update() });
  const reshuffle = () => {
    state.shuffle += 1;
    chosen = null;
    redrawMap();
  };
  const another = "another order: other candidates and pairs come first";
  const shuffle = button("shuffle", reshuffle, { title: another });
  const back = button("back to the winner", free, { class: "odebc-back" });
  const candidate = tag("input", { type: "number", min: 1, class: "odebc-pick" });
  candidate.addEventListener("input", () => {
    const wanted = Math.round(Number(candidate.value)) - 1;
    if (wanted >= 0 && wanted < D.K) show(wanted);
  });
  // what is no candidate does not stay in the field
  candidate.addEventListener("change", () => (candidate.value = shared.get("start").index + 1));
  const presets = PRESETS.map(({ text, why, set }) =>
    button(text, () => settle(set(facts.shelf[state.key]), why), { title: why }),
  );
  const indifferent = keys.find((key) => key.startsWith("base"));
  if (indifferent) {
    const why = "Its pictures do not agree on any start: whatever wins, wins by chance.";
    const go = () => guarded(async () => (await open(indifferent), settle({}, why)));
    presets.push(button(INDIFFERENT, go, { title: why }));
  }

  const comment = tag("p", { class: "note", "aria-live": "polite" });
  const map = heatMap((index) => show(index));
  const overR = curvePanel("R", "pairs");
  const overK = curvePanel("K", "candidates");
  const legend = tag(
    "p",
    { class: "note odebc-legend" },
    "Score on unseen pictures: ",
    tag("i", { class: "line" }),
    " winners of 100 resampled searches, 80 % in the band   ",
    tag("i", { class: "dot" }),
    " this start   ",
    tag("i", { class: "dash" }),
    " a random start",
  );
  const numbers = tag("table", { class: "odebc-numbers" });
  const gains = tag("p", { class: "odebc-gains" });
  const sentence = tag("p", { class: "odebc-verdict note" });
  const seen = comparison({ left: 1, right: 2, height: Math.max(300, 0.4 * innerHeight) });
  const gallery = tag("div", { class: "odebc-gallery" });
  const live = still ? null : liveSearch({ ask, guarded, shared, now });
  const told = tag("span", { class: "note", "aria-live": "polite" });
  const takeAway = row(
    button("save this x_T", () => guarded(save), { disabled: still }),
    button(still ? "link to this" : "save these settings", () => guarded(keepPlaces)),
    told,
  );

  const tastes = "LPIPS likes detail, right or made up; PSNR (dB) likes what is smooth.";
  const idea =
    "Draw K noises x_T, let each enlarge R small pictures whose originals are known, and keep " +
    "the one that comes nearest on average (a lower distance is better): it is then used for all " +
    "other pictures. A larger K gives more to choose from; with a larger R the choice holds " +
    "elsewhere.";
  place.append(
    tag("p", { class: "odebc-idea" }, idea),
    row(network.node, distance.node, ...presets),
    row(R.node, K.node, shuffle),
    comment,
    tag(
      "div",
      { class: "odebc-desk" },
      tag("div", { class: "odebc-left" }, map.node, pickRow()),
      tag(
        "div",
        { class: "odebc-middle" },
        tag("div", { class: "odebc-curves" }, overR.node, overK.node),
        legend,
        numbers,
        gains,
        sentence,
        gallery,
      ),
      tag(
        "div",
        { class: "odebc-right" },
        picture.node,
        seen.node,
        tag("p", { class: "note" }, tastes),
      ),
    ),
    live ? live.node : tag("p", { class: "note" }, "A live search needs a running kernel."),
    takeAway,
  );
  place.odebc = { state: now };
  guarded(() => open(state.key, given));

  function pickRow() {
    const id = fresh("pick");
    candidate.id = id;
    return row(tag("label", { for: id }, "candidate"), candidate, back);
  }

  /** Take a matrix in hand; it and its pictures are asked for once. */
  async function open(key, places = {}) {
    network.set(key);
    if (!known.has(key)) {
      comment.textContent = "fetching the scores …";
      const answer = await ask("matrix", { key });
      known.set(key, {
        D: scoreMatrix(answer, facts.shelf[key]),
        pictures: await sheet(answer.sheet, facts.shelf[key].side),
      });
      comment.textContent = "";
    }
    state.key = key;
    chosen = null;
    ({ D, pictures } = known.get(key));
    distance.offer(
      D.distances.map((name) => [name, name]),
      state.distance,
    );
    R.over(logSteps(D.R), places.R ?? D.R);
    K.over(logSteps(D.K), places.K ?? D.K);
    candidate.max = D.K;
    picture.offer(
      D.shown.map((u, i) => [`unseen picture ${u + 1}`, i]),
      0,
    );
    if (places.index != null) chosen = places.index;
    redrawMap();
    tellVerdict(key);
  }

  async function tellVerdict(key) {
    sentence.textContent = "";
    try {
      const { sentence: said } = await ask("verdict", { key });
      if (key === state.key) sentence.textContent = said;
    } catch (error) {
      if (error.kind !== "dropped") sentence.textContent = error.message;
    }
  }

  function settle(places, why) {
    chosen = null;
    if (places.R) R.set(places.R);
    if (places.K) K.set(places.K);
    update();
    comment.textContent = why;
  }

  function show(index) {
    chosen = index;
    update();
  }

  function redrawMap() {
    if (!D) return;
    rows = order(D.K, state.shuffle);
    columns = order(D.R, state.shuffle);
    map.draw(D, state.distance, rows, columns);
    randomUnseen = mean(rows.map((k) => D.unseenMean(state.distance, k)));
    update();
  }

  let waiting = false;
  function later() {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      comment.textContent = "";
      update();
    });
  }

  /** All that the sliders decide. */
  function update() {
    if (!D) return;
    const name = state.distance;
    const [inRows, inColumns] = [rows.slice(0, K.value), columns.slice(0, R.value)];
    const winner = pick(D, name, inRows, inColumns);
    const index = chosen ?? winner.index;
    const [score] = meansOf(D, name, [index], inColumns);
    const unseen = D.unseenMean(name, index);
    const winners = resampledWinners(D, name, K.value, R.value);
    const here = winners.overR.map((row) => row[R.value - 1]);
    const curves = [band(D, name, winners.overR), band(D, name, winners.overK)];
    const ends = curves.flat().flatMap(({ low, high }) => [low, high]);
    const [low, high] = [Math.min(...ends, randomUnseen), Math.max(...ends, randomUnseen)];
    const margin = 0.1 * (high - low);
    const common = {
      value: unseen,
      random: randomUnseen,
      limits: [low - margin, high + margin],
    };
    map.mark(K.value, R.value, index);
    overR.draw({ ...common, points: curves[0], n: R.value, fixed: `K = ${K.value}` });
    overK.draw({ ...common, points: curves[1], n: K.value, fixed: `R = ${R.value}` });
    const randomScore = mean(meansOf(D, name, rows, inColumns));
    tellNumbers({ index, winner, score, unseen, randomScore, here });
    showPictures(index);
    showGallery(winner, inRows);
    candidate.value = index + 1;
    back.disabled = chosen === null;
    shared.set("start", {
      key: state.key,
      network: facts.shelf[state.key].network,
      sampler: facts.shelf[state.key].sampler,
      seed: facts.shelf[state.key].seed,
      index,
      label: `candidate ${index + 1}${chosen === null ? ", the winner" : ""}`,
    });
  }

  function tellNumbers({ index, winner, score, unseen, randomScore, here }) {
    const name = state.distance;
    const { gain, error } = expectedGain(D, name, here);
    const number = (kind, text) => tag("b", { class: `number odebc-${kind}` }, text);
    const line = (head, ...cells) =>
      tag("tr", {}, tag("th", { scope: "row" }, head), ...cells.map((c) => tag("td", {}, c)));
    const head = (text) => tag("th", { scope: "col" }, text);
    const who = index === winner.index ? "chosen" : "picked by hand";
    numbers.replaceChildren(
      tag(
        "tr",
        {},
        head(name),
        head(`${counted(R.value, "reference pair")}`),
        head(counted(D.U, "unseen picture")),
      ),
      line(
        tag("span", {}, "candidate ", number("candidate", index + 1), `, ${who}`),
        number("score", four(score)),
        number("unseen", four(unseen)),
      ),
      line(
        "a random start",
        number("random-score", four(randomScore)),
        number("random", four(randomUnseen)),
      ),
      line(
        "gain of this start",
        number("gain-score", percent(1 - score / randomScore)),
        number("gain-unseen", percent(1 - unseen / randomUnseen)),
      ),
    );
    gains.replaceChildren(
      "Picture by picture it beats another candidate in ",
      number("wins", percent(winRate(D, name, index))),
      " of cases. A search of this size costs ",
      number("cost", K.value * R.value),
      " solves (halving a quarter) and gains ",
      number("gain", percent(gain / randomUnseen)),
      " ± ",
      number("gain-error", percent(error / randomUnseen)),
      " on unseen pictures, on average (± one standard error).",
    );
  }

  const tile = (i, n) => pictures.at(i * (BEFORE + D.K) + n);

  function note(of) {
    return `LPIPS ${of("LPIPS").toFixed(3)}, ${DECIBELS(of("MSE"))}`;
  }

  function showPictures(index) {
    const i = picture.value;
    const u = D.shown[i];
    const usual = typical(D, u);
    const ofStart = (k) => note((d) => D.unseen(d, k, u));
    seen.show([
      { label: "bicubic", note: note((d) => D.bicubic(d, u)), part: tile(i, 0) },
      {
        label: "typical random x_T",
        note: `no. ${usual + 1}, ${ofStart(usual)}`,
        part: tile(i, BEFORE + usual),
      },
      { label: `candidate ${index + 1}`, note: ofStart(index), part: tile(i, BEFORE + index) },
      { label: "original", note: "", part: tile(i, 2) },
    ]);
  }

  function showGallery(winner, inRows) {
    const ranked = inRows.map((k, i) => [winner.means[i], k]).sort(([a], [b]) => a - b);
    const three = [ranked[0], ranked[Math.floor(ranked.length / 2)], ranked.at(-1)];
    const names = ["best on these pairs", "middle", "worst"];
    gallery.replaceChildren(...three.map(([score, k], i) => card(names[i], k, score)));
  }

  function card(what, k, here) {
    const [score, unseen] = [here, D.unseenMean(state.distance, k)].map((x) => x.toFixed(3));
    const text = `${what}: no. ${k + 1}, ${score}; unseen ${unseen}`;
    const tiles = D.shown.map((_, i) => {
      const canvas = tag("canvas", { "aria-hidden": "true" });
      paint(canvas, tile(i, BEFORE + k));
      return canvas;
    });
    const attributes = { class: "odebc-card", "aria-label": text };
    const made = button("", () => show(k), attributes);
    made.append(tag("span", {}, text), row(...tiles));
    return made;
  }

  /** Where the controls stand: enough to come back. */
  function now() {
    return { ...state, K: K.value, R: R.value, index: chosen, columns };
  }

  async function save() {
    const { index } = shared.get("start");
    const { file, name } = await ask("start", { key: state.key, index });
    download(file, name);
  }

  async function keepPlaces() {
    const { columns: _, ...search } = now();
    if (still) {
      location.hash = encodeURIComponent(JSON.stringify({ search }));
      told.textContent = "The address of this page now leads to these settings.";
      return;
    }
    const text = new TextEncoder().encode(JSON.stringify({ search }));
    download(text, "explorer.json", "application/json");
    told.textContent = "explorer(**json.load(open('explorer.json'))) opens them again.";
  }

  return { shown: () => update() };
}

APPS.search = { title: "Search", make: searchApp };
