// The frame: what the apps have in common, and the place where each of them stands.

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

/** The apps in an element. `ask(name, args, { update, files })` promises an answer. */
function present(el, facts, ask) {
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
  return root;
}

/** Errors are told below the apps; what a newer question replaced is none, and that the kernel
 *  is gone stands above them. */
function guard(problem) {
  return async (work) => {
    try {
      problem.textContent = "";
      return await work();
    } catch (error) {
      if (["dropped", "gone"].includes(error.kind)) return;
      problem.textContent = error.message || String(error);
    }
  };
}
