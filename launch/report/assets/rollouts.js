// The rollouts: filters, a list, and one completion at a time with its tokens coloured.

const ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
const CODES = Object.fromEntries([...ALPHABET].map((letter, i) => [letter, i]));
const LOGPROB_SCALE = 18; // as launch/report/rollouts.py packs them
const PAGE = 60; // items that the list grows by

const wanted = { text: "", domain: "", status: "", reward: "", from: -Infinity, to: Infinity, order: "newest", paint: "version" };
let store = null, items = [], found = [], chosen = null, listed = 0;

function rolloutSection() {
  return section("rollouts", "Rollouts", "What the model wrote, with its verdict and the versions that sampled it.", el("div", { class: "card", id: "rollout-host" }, el("p", { class: "small", role: "status" }, "Reading the rollouts …")));
}

// Called when the page is complete: the data of rollouts is its last part
function fillRollouts(data) {
  store = data;
  items = data.groups.flatMap((group) => group.r.map((rollout, index) => ({ group, rollout, index, prompt: data.prompts[group.p] })));
  const host = document.getElementById("rollout-host");
  if (!items.length) return host.replaceChildren(el("p", { class: "small" }, data.why_none || "The journal holds no rollout that could be read."));
  host.replaceChildren(
    el("p", { class: "small", style: { marginTop: 0 } }, howMany(data)),
    filters(), el("p", { class: "small", id: "rollout-count", role: "status" }),
    el("div", { class: "viewer" },
      el("div", {}, el("ul", { class: "list", id: "rollout-list", role: "listbox", tabindex: 0, "aria-label": "Rollouts", onkeydown: moveChoice }), el("button", { type: "button", class: "button", id: "rollout-more", onclick: () => grow() }, "Show more")),
      el("div", { id: "rollout-detail", "aria-live": "polite" })));
  search();
  const asked = location.hash.match(/^#rollout=(\d+)\.(\d+)$/);
  const linked = asked && items.find((item) => item.group.o === Number(asked[1]) && item.index === Number(asked[2]));
  choose(linked || found[0], false);
  if (linked) document.getElementById("rollouts").scrollIntoView();
}

function howMany(data) {
  const part = data.groups.length < data.kept_groups ? `${whole(data.groups.length)} of the ${whole(data.kept_groups)} groups that the journal holds, spread evenly over` : `All ${whole(data.kept_groups)} groups that the journal holds, of`;
  const kept = `${part} steps ${data.first_step} to ${data.last_step}: ${whole(items.length)} rollouts. Groups that were filtered are in no journal.`;
  const more = data.first_step > 1 ? " Earlier groups were let go of; buffer.keep_history=true keeps all." : "";
  return kept + more + (data.unreadable ? ` ${data.unreadable} groups could not be read.` : "") + (data.as_ids ? ` Tokens are shown as numbers: ${data.as_ids}.` : "");
}

const options = (values, any) => [el("option", { value: "" }, any), ...values.map((value) => el("option", { value }, value))];
const newestVersion = ({ rollout }) => Math.max(...rollout.v.map((span) => span[0]));
const oldestVersion = ({ rollout }) => Math.min(...rollout.v.map((span) => span[0]));
const ageOf = (item) => item.group.s - 1 - oldestVersion(item);

function filters() {
  const set = (name, read = (value) => value) => (event) => { wanted[name] = read(event.target.value); search(); choose(found[0], false); };
  const step = (otherwise) => (value) => (value === "" ? otherwise : Number(value));
  const distinct = (pick) => [...new Set(items.map(pick))].sort();
  let timer = 0;
  const typed = (event) => { clearTimeout(timer); const value = event.target.value; timer = setTimeout(() => { wanted.text = value; search(); choose(found[0], false); }, 120); };
  const label = (text, input, kind) => el("label", { class: kind }, text, input);
  return el("div", { class: "filters" },
    label("Search prompts and completions: all words must occur; press / to come here", el("input", { type: "search", id: "rollout-search", placeholder: "words, or \"a phrase\"", oninput: typed }), "wide"),
    label("Domain, task", el("select", { id: "rollout-domain", onchange: set("domain") }, options([...new Set(items.flatMap(({ prompt }) => [prompt.d, `${prompt.d}/${prompt.k}`]))].sort(), "all"))),
    label("Verdict", el("select", { id: "rollout-status", onchange: set("status") }, options(distinct(({ rollout }) => rollout.s), "all"))),
    label("Reward", el("select", { id: "rollout-reward", onchange: set("reward") }, options(["right", "partly", "wrong", "none"], "all"))),
    label("Steps", el("span", { class: "range" }, el("input", { type: "number", id: "rollout-from", "aria-label": "from step", placeholder: "from", onchange: set("from", step(-Infinity)) }), el("input", { type: "number", id: "rollout-to", "aria-label": "to step", placeholder: "to", onchange: set("to", step(Infinity)) }))),
    label("Order", el("select", { id: "rollout-order", onchange: set("order") }, [["newest", "newest step"], ["oldest", "oldest step"], ["longest", "longest"], ["stalest", "stalest"], ["versions", "most versions"], ["surprise", "least likely"]].map(([value, text]) => el("option", { value }, text)))),
    label("Colour", el("select", { id: "rollout-paint", onchange: (event) => { wanted.paint = event.target.value; show(); } }, [["version", "policy version"], ["logprob", "probability"], ["", "none"]].map(([value, text]) => el("option", { value }, text)))));
}

// Words of a query; "a phrase" counts as one
const termsOf = (text) => [...text.toLowerCase().matchAll(/"([^"]+)"|(\S+)/g)].map((match) => (match[1] || match[2]).replaceAll('"', "")).filter(Boolean);

const REWARDS = { right: (w) => w >= 1, partly: (w) => w > 0 && w < 1, wrong: (w) => w !== null && w <= 0, none: (w) => w === null };
const ORDERS = {
  newest: (item) => -item.group.s, oldest: (item) => item.group.s, longest: (item) => -item.rollout.n, stalest: (item) => -ageOf(item),
  versions: (item) => -new Set(item.rollout.v.map((span) => span[0])).size, surprise: (item) => meanLogprob(item.rollout),
};

function meanLogprob(rollout) {
  if (rollout.mean === undefined) { let sum = 0; for (const letter of rollout.q) sum -= (CODES[letter] / LOGPROB_SCALE) ** 2; rollout.mean = sum / Math.max(1, rollout.q.length); }
  return rollout.mean;
}

function search() {
  const terms = termsOf(wanted.text);
  found = items.filter(({ group, rollout, prompt }) => {
    if (group.s < wanted.from || group.s > wanted.to) return false;
    if (wanted.domain && wanted.domain !== prompt.d && wanted.domain !== `${prompt.d}/${prompt.k}`) return false;
    if (wanted.status && wanted.status !== rollout.s) return false;
    if (wanted.reward && !REWARDS[wanted.reward](rollout.w)) return false;
    if (!terms.length) return true;
    const text = rollout.lower ?? (rollout.lower = rollout.t.toLowerCase()), asked = prompt.lower ?? (prompt.lower = prompt.x.toLowerCase());
    return terms.every((term) => text.includes(term) || asked.includes(term));
  });
  const rank = ORDERS[wanted.order];
  found = found.map((item) => [rank(item), item]).sort((a, b) => a[0] - b[0]).map(([, item]) => item);
  const right = found.filter(({ rollout }) => rollout.w >= 1).length, mean = found.reduce((sum, { rollout }) => sum + (rollout.w ?? 0), 0) / Math.max(1, found.length);
  document.getElementById("rollout-count").textContent = found.length ? `${whole(found.length)} rollouts; ${percent(right / found.length)} right, mean reward ${score(mean)}, mean length ${num(found.reduce((sum, { rollout }) => sum + rollout.n, 0) / found.length)} tokens` : "No rollout matches.";
  document.getElementById("rollout-list").replaceChildren();
  listed = 0;
  grow();
}

const rewardColor = (reward) => (reward === null ? "var(--warn)" : reward >= 1 ? "var(--good)" : reward > 0 ? "var(--warn)" : "var(--bad)");
const rewardText = (reward) => (reward === null ? "none" : num(reward));

function grow() {
  const list = document.getElementById("rollout-list"), terms = termsOf(wanted.text);
  for (const item of found.slice(listed, listed + PAGE)) {
    list.append(el("li", { role: "option", id: `item-${item.group.o}-${item.index}`, "aria-selected": String(item === chosen), onclick: () => choose(item) },
      el("span", { class: "reward", style: { color: rewardColor(item.rollout.w) } }, rewardText(item.rollout.w)), el("span", {}, `${item.prompt.d}/${item.prompt.k}`), el("span", { class: "small" }, `step ${item.group.s} · ${whole(item.rollout.n)} tokens`),
      el("span", { class: "snippet" }, snippet(item, terms))));
  }
  listed = Math.min(found.length, listed + PAGE);
  document.getElementById("rollout-more").hidden = listed >= found.length;
}

function snippet({ rollout }, terms) {
  const text = rollout.t, lower = rollout.lower ?? text.toLowerCase(), term = terms.find((word) => lower.includes(word));
  if (!term) return text.slice(0, 120).replace(/\s+/g, " ").trim() || "(empty)";
  const place = lower.indexOf(term);
  return [text.slice(Math.max(0, place - 24), place).replace(/\s+/g, " "), el("mark", {}, text.slice(place, place + term.length)), text.slice(place + term.length, place + 90).replace(/\s+/g, " ")];
}

function moveChoice(event) {
  const jumps = { ArrowDown: 1, ArrowUp: -1, PageDown: 10, PageUp: -10, Home: -Infinity, End: Infinity };
  if (!(event.key in jumps) || !found.length) return;
  event.preventDefault();
  const next = Math.max(0, Math.min(found.length - 1, found.indexOf(chosen) + jumps[event.key]));
  while (listed <= next) grow();
  choose(found[next]);
}

// `linked`: write the rollout into the page's address, so that it can be sent
function choose(item, linked = true) {
  const mark = (picked) => { const row = chosen && document.getElementById(`item-${chosen.group.o}-${chosen.index}`); if (row) row.setAttribute("aria-selected", String(picked)); return row; };
  mark(false);
  chosen = item || null;
  const row = mark(true), list = document.getElementById("rollout-list");
  if (row) {
    list.setAttribute("aria-activedescendant", row.id);
    if (row.offsetTop < list.scrollTop || row.offsetTop + row.offsetHeight > list.scrollTop + list.clientHeight) list.scrollTop = row.offsetTop - list.clientHeight / 2;
  }
  if (chosen && linked) history.replaceState(null, "", `#rollout=${chosen.group.o}.${chosen.index}`);
  show();
}

// --- one rollout -------------------------------------------------------------------------------------------------------

function show() {
  const host = document.getElementById("rollout-detail");
  if (!chosen) return host.replaceChildren(el("p", { class: "small" }, "Nothing to show."));
  const { group, rollout, prompt } = chosen, terms = termsOf(wanted.text);
  const others = group.r.map((other, index) => el("button", { type: "button", "aria-pressed": String(index === chosen.index), title: `rollout ${index}: ${other.s}, ${other.n} tokens`, style: { color: rewardColor(other.w) }, onclick: () => choose(items.find((item) => item.group === group && item.index === index)) }, rewardText(other.w)));
  host.replaceChildren(
    el("h3", {}, `${prompt.d}/${prompt.k} · ticket ${group.o} · rollout ${chosen.index}`),
    el("h4", {}, "Prompt"), el("div", { class: "text", id: "prompt-text", tabindex: 0 }, painted(prompt.x, [], terms)),
    el("h4", {}, `The group's rewards (${group.r.length} rollouts${group.x ? `, ${group.x} dropped` : ""})`), el("div", { class: "siblings" }, others),
    el("h4", {}, "Completion"), paintKey(rollout), el("div", { class: "text", id: "completion-text", tabindex: 0 }, painted(rollout.t, rangesOf(rollout), terms, rollout.c)),
    factsOf(chosen));
}

function factsOf(item) {
  const { group, rollout, prompt } = item, metrics = Object.entries(rollout.m || {}).map(([name, value]) => `${name} ${num(value)}`).join(", ");
  const versions = rollout.v.map(([version, , tokens, actor]) => `${version} (${whole(tokens)} tokens${actor ? `, ${actor}` : ""})`).join(", ");
  const pairs = [["reward", el("b", { style: { color: rewardColor(rollout.w) } }, rewardText(rollout.w))], ["verdict", `${rollout.s} by ${prompt.r}`], ["detail", rollout.d], ["metrics", metrics], ["answer", prompt.a], ["ended by", rollout.f], ["tokens", whole(rollout.n)],
    ["mean probability", percent(Math.exp(meanLogprob(rollout)), 1)], ["versions", versions], ["trained by", `step ${group.s}, staleness ${ageOf(item)}`], ["actor", `${group.a}, ${num(group.t)} s for the group`], ["prompt id", prompt.u]];
  return el("dl", { class: "facts" }, pairs.filter(([, value]) => value).flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]));
}

function paintKey(rollout) {
  if (wanted.paint === "version") {
    const versions = [...new Set(rollout.v.map((span) => span[0]))];
    return el("div", { class: "legend" }, versions.map((version) => el("span", { class: "key" }, el("i", { class: "dot", style: { background: versionColor(version, versions) } }), `version ${version}`)));
  }
  return wanted.paint === "logprob" ? el("div", { class: "legend" }, [1, 0.5, 0.1, 0.01].map((p) => el("span", { class: "key" }, el("i", { class: "dot", style: { background: doubt(Math.log(p)) } }), `p = ${p}`))) : null;
}

const versionColor = (version, versions) => color(versions.indexOf(version));
const doubt = (logprob) => `color-mix(in srgb, var(--c4) ${Math.min(70, Math.round(-logprob * 18))}%, transparent)`;

// Ranges of a completion with their look: {end, title, style}, in order and without gaps
function rangesOf(rollout) {
  if (wanted.paint === "version") {
    const versions = [...new Set(rollout.v.map((span) => span[0]))];
    return rollout.v.map(([version, end, tokens, actor]) => { const tint = versionColor(version, versions); return { end, title: `version ${version}, ${tokens} tokens${actor ? `, ${actor}` : ""}`, version, style: { borderBottomColor: tint, background: `color-mix(in srgb, ${tint} 13%, transparent)` } }; });
  }
  if (wanted.paint !== "logprob") return [];
  let end = 0;
  return [...rollout.k].map((letter, i) => {
    const logprob = -((CODES[rollout.q[i]] / LOGPROB_SCALE) ** 2);
    end += CODES[letter];
    return { end, title: `token ${i}: p = ${num(Math.exp(logprob))}`, style: { background: doubt(logprob) } };
  });
}

// A text as nodes: its ranges as spans, the terms of the search marked in them, and a note where the middle was left out
function painted(text, ranges, terms, cut) {
  const hits = hitsOf(text, terms), nodes = [];
  let begin = 0;
  const push = (until, range) => {
    while (begin < until) {
      const hit = hits.find((one) => one[1] > begin), end = Math.min(until, hit ? (hit[0] > begin ? hit[0] : hit[1]) : until, cut && cut[0] > begin ? cut[0] : until);
      const piece = text.slice(begin, end), inside = hit && hit[0] <= begin ? el("mark", {}, piece) : piece;
      nodes.push(range ? el("span", { title: range.title, "data-v": range.version, style: range.style }, inside) : inside);
      begin = end;
      if (cut && begin === cut[0]) nodes.push(el("span", { class: "gap" }, ` [… ${whole(cut[1])} tokens are left out here …] `));
    }
  };
  for (const range of ranges) push(range.end, range);
  push(text.length, null);
  return nodes.length ? nodes : "(empty)";
}

function hitsOf(text, terms) {
  const lower = text.toLowerCase(), hits = [];
  if (lower.length !== text.length) return hits; // some capital letters have no lower-case form of the same length
  for (const term of terms) for (let place = lower.indexOf(term); place >= 0 && hits.length < 500; place = lower.indexOf(term, place + term.length)) hits.push([place, place + term.length]);
  hits.sort((a, b) => a[0] - b[0]);
  return hits.filter((hit, i) => i === 0 || hit[0] >= hits[i - 1][1]);
}
