// The frame: asks Python, or what was kept of its answers, and puts the apps under tabs.

/** Questions to the kernel. `ask(name, args, {update, files})` gives a promise of the answer. */
function kernel(model) {
  const waiting = new Map();
  let last = 0;
  model.on("msg:custom", (message, buffers) => {
    const asked = waiting.get(message.id);
    if (!asked) return;
    const value = { ...message.value };
    (message.names ?? []).forEach((name, i) => (value[name] = buffers[i]));
    if (message.kind === "update") return asked.update?.(value);
    waiting.delete(message.id);
    if (message.kind === "answer") asked.resolve(value);
    else asked.reject(Object.assign(new Error(message.why ?? ""), { kind: message.kind }));
  });
  return (name, args = {}, { update, files = [] } = {}) =>
    new Promise((resolve, reject) => {
      const id = ++last;
      waiting.set(id, { resolve, reject, update });
      try {
        model.send({ id, name, args }, undefined, files);
      } catch {
        waiting.delete(id);
        reject(new Error("the kernel does not answer any more: load the page anew"));
      }
    });
}

/** The same from answers that were kept: a page without a kernel. */
function memory(answers) {
  return async (name, args = {}) => {
    const value = answers[JSON.stringify([name, args])];
    if (value) return value;
    throw Object.assign(new Error("this needs a running kernel"), { kind: "absent" });
  };
}

/** What the apps have in common, and a way to hear of changes. */
function sharedState() {
  const state = {};
  const listeners = {};
  return {
    get: (name) => state[name],
    set(name, value) {
      state[name] = value;
      (listeners[name] ?? []).forEach((listener) => listener(value));
    },
    on: (name, listener) => (listeners[name] ??= []).push(listener),
  };
}

function render({ model, el }) {
  const facts = model.get("facts");
  const ask = facts.answers ? memory(facts.answers) : kernel(model);
  const shared = sharedState();
  const root = tag("div", { class: "odebc" });
  const problem = tag("p", { class: "odebc-problem", role: "alert" });
  const guarded = guard(problem);
  const still = Boolean(facts.answers);
  const panels = facts.apps.map((name) => {
    const place = tag("section", { class: `odebc-app odebc-${name}` });
    return { name, place, begun: false, ...APPS[name] };
  });

  function open(panel) {
    panels.forEach((other) => (other.place.hidden = other !== panel));
    problem.textContent = "";
    if (!panel.begun) {
      panel.begun = true;
      panel.app = panel.make(panel.place, { ask, shared, facts, guarded, still });
    }
    panel.app.shown?.();
  }

  if (panels.length > 1) root.append(tabs(panels, open));
  root.append(...panels.map((panel) => panel.place), problem);
  el.append(root);
  open(panels[0]);
}

/** Errors are told below the apps; a question that a newer one replaced is no error. */
function guard(problem) {
  return async (work) => {
    try {
      problem.textContent = "";
      return await work();
    } catch (error) {
      if (error.kind !== "dropped") problem.textContent = error.message || String(error);
    }
  };
}

/** A row of tabs, as the ARIA practices describe it: arrows move, one tab is in the order. */
function tabs(panels, open) {
  const list = tag("div", { role: "tablist", "aria-label": "apps", class: "odebc-tabs" });
  panels.forEach((panel, i) => {
    const [id, place] = [fresh("tab"), fresh("panel")];
    const attributes = { role: "tab", id, "aria-controls": place, type: "button" };
    panel.tab = tag("button", { ...attributes, onclick: () => go(i) }, panel.title);
    give(panel.place, { role: "tabpanel", id: place, "aria-labelledby": id });
  });

  function go(i) {
    panels.forEach((panel, j) => {
      panel.tab.setAttribute("aria-selected", i === j);
      panel.tab.tabIndex = i === j ? 0 : -1;
    });
    open(panels[i]);
  }

  list.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    const now = panels.findIndex((panel) => panel.tab === event.target);
    const next = (now + step + panels.length) % panels.length;
    panels[next].tab.focus();
    go(next);
  });
  list.append(...panels.map((panel) => panel.tab));
  go(0);
  return list;
}

export default { render };
