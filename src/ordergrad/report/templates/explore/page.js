// The page around mathematics.js: reads the form, draws five panels, keeps its state in the address.
"use strict";

(() => {
  const o = ordergrad;
  const element = (id) => document.getElementById(`og-${id}`);
  const FIELDS = ["objective", "n", "k", "law", "rate", "paste"];
  const NAMES = { normal: "normal, sd 1", t3: "Student t, 3 degrees", lognormal: "log-normal", uniform: "uniform on 0 to 1" };
  const number = (x) => (x === 0 ? "0" : Math.abs(x) >= 1e5 || Math.abs(x) < 1e-3 ? x.toExponential(2) : String(+x.toPrecision(4))).replace("-", "−");
  const escape = (text) => text.replace(/[&<>"]/g, (c) => `&#${c.charCodeAt(0)};`);
  const grid = (count) => Array.from({ length: count + 1 }, (_, i) => i / count);

  // Drawing

  function frame(xs, ys, labels) {
    const [width, height, left, bottom] = [420, 210, 44, 30];
    const low = Math.min(0, ...ys), high = Math.max(0, ...ys), span = high - low || 1;
    const x0 = Math.min(...xs), x1 = Math.max(...xs);
    const x = (v) => left + ((v - x0) / (x1 - x0 || 1)) * (width - left - 8);
    const y = (v) => 8 + ((high - v) / span) * (height - bottom - 8);
    const ticks = [low, high].filter((v, i, all) => v && all.indexOf(v) === i);
    const axes = [`<line class="axis" x1="${left}" x2="${width - 8}" y1="${y(0)}" y2="${y(0)}"/>`,
      `<text x="${left - 6}" y="${y(0) + 4}" text-anchor="end">0</text>`,
      ...ticks.map((v) => `<text x="${left - 6}" y="${y(v) + 4}" text-anchor="end">${number(v)}</text>`),
      `<text x="${left}" y="${height - 8}">${labels.from ?? number(x0)}</text>`,
      `<text x="${width - 8}" y="${height - 8}" text-anchor="end">${labels.to ?? number(x1)}</text>`,
      `<text x="${(left + width) / 2}" y="${height - 8}" text-anchor="middle">${labels.x}</text>`];
    const svg = (marks) => `<svg viewBox="0 0 ${width} ${height}" role="img" aria-label="${escape(labels.name)}">${axes.join("")}${marks.join("")}</svg>`;
    return { x, y, svg, width };
  }

  const line = (f, points, which) => `<path class="${which}" d="M${points.map(([a, b]) => `${f.x(a).toFixed(2)},${f.y(b).toFixed(2)}`).join("L")}"/>`;
  const legend = (f, entries) => entries.map(([text, which], i) => `<text class="${which}" x="${f.width / 2}" y="${20 + 15 * i}" text-anchor="middle">${text}</text>`);

  function drawSpectrum(terms, open, text) {
    const us = grid(240), phi = us.map((u) => o.spectrum(terms, u, open));
    const limit = terms.every(({ kind, k }) => kind.density && (k === null || kind.size)) &&
      us.map((u) => terms.reduce((total, { coefficient, kind }) => total + coefficient * kind.density(u), 0));
    const shown = limit && limit.map((v) => Math.max(Math.min(v, 1.5 * Math.max(...phi, 1)), Math.min(...phi, 0) * 1.5));
    const f = frame(us, [...phi, ...(shown || [])], { x: "u", name: `spectrum of ${text}` });
    const marks = [line(f, us.map((u, i) => [u, phi[i]]), "a")];
    if (shown && open !== null) marks.push(line(f, us.map((u, i) => [u, shown[i]]), "b"));
    element("spectrum").innerHTML = f.svg([...marks, ...legend(f, [[`K = ${o.largest(terms, open)}`, "a"], ...(shown ? [["population", "b"]] : [])])]);
  }

  function drawWeights(terms, n, open, text) {
    const rows = [o.rankWeights(terms, open), o.sampleWeights(terms, n, Math.min(open + 1, n))];
    const f = frame([0, 1], rows.flat(), { x: "rank", from: "worst", to: "best", name: `rank and sample weights of ${text}` });
    const bars = rows.flatMap((weights, row) => weights.map((w, i) => {
      const left = f.x(i / weights.length), width = (f.x((i + 1) / weights.length) - left) / 2;
      const [top, bottom] = [Math.min(f.y(w), f.y(0)), Math.max(f.y(w), f.y(0))];
      return `<rect class="bar ${"ab"[row]}" x="${left + row * width}" y="${top}" width="${Math.max(width - 0.5, 0.5)}" height="${bottom - top}"><title>rank ${i + 1} of ${weights.length}: ${number(w)}</title></rect>`;
    }));
    element("weights").innerHTML = f.svg([...bars, ...legend(f, [[`α, K = ${rows[0].length}`, "a"], [`w, N = ${n}`, "b"]])]);
  }

  function drawAdvantages(terms, rewards, text) {
    const found = o.advantages(terms, rewards);
    const f = frame(rewards, found, { x: "reward", name: `advantages of ${text}` });
    const order = rewards.map((_, i) => i).sort((a, b) => rewards[a] - rewards[b]);
    const dots = order.map((i) => `<circle class="dot" r="3.5" cx="${f.x(rewards[i])}" cy="${f.y(found[i])}"><title>reward ${number(rewards[i])}: advantage ${number(found[i])}</title></circle>`);
    element("advantages").innerHTML = f.svg([line(f, order.map((i) => [rewards[i], found[i]]), "a"), ...dots]);
  }

  function drawPrice(terms, open, text) {
    const ps = grid(200), paid = ps.map((p) => o.price(terms, p, open));
    const f = frame(ps, [...paid, 1], { x: "success rate p", name: `what ${text} pays for success` });
    element("price").innerHTML = f.svg([line(f, ps.map((p, i) => [p, paid[i]]), "a"), line(f, [[0, 1], [1, 1]], "b"), ...legend(f, [[escape(text), "a"], ["mean", "b"]])]);
  }

  function showBias(terms, open, text) {
    const known = o.hasPopulation(terms), k = o.largest(terms, open);
    const rows = Object.entries(o.LAWS).map(([key, law]) => {
      const finite = o.finiteValue(terms, law, open), population = known ? o.populationValue(terms, law) : null;
      return [NAMES[key], finite, population, population === null ? null : finite - population];
    });
    const cells = (row) => row.map((v, i) => (i ? `<td>${v === null ? "–" : number(v)}</td>` : `<td>${v}</td>`)).join("");
    element("bias").innerHTML = `<table class="og-risks"><thead><tr><th>reward</th><th>${escape(text)} at K = ${k}</th><th>population risk</th><th>difference</th></tr></thead><tbody>${rows.map((row) => `<tr>${cells(row)}</tr>`).join("")}</tbody></table>`;
  }

  // State

  function group(law, n) {
    if (law === "paste") {
      const words = element("paste").value.split(/[\s,;]+/).filter(Boolean), rewards = words.map(Number);
      const wrong = words.find((_, i) => !Number.isFinite(rewards[i]));
      if (wrong !== undefined) throw new Error(`rewards must be numbers; got “${wrong}”`);
      if (words.length < 2 || words.length > 256) throw new Error(`a group has 2 to 256 rewards; got ${words.length}`);
      return rewards;
    }
    if (law === "binary") {
      const asked = element("rate").value, rate = asked === "" ? NaN : Number(asked);
      if (!(rate >= 0 && rate <= 1)) throw new Error(`the success rate must be from 0 to 1; got ${asked || "nothing"}`);
      return grid(n - 1).map((_, i) => (i >= n - Math.round(n * rate) ? 1 : 0));
    }
    return grid(n - 1).map((_, i) => o.LAWS[law].quantile((i + 0.5) / n));
  }

  function update() {
    const law = element("law").value, text = element("objective").value.trim();
    element("rate-label").hidden = law !== "binary";
    element("paste-label").hidden = law !== "paste";
    element("n").disabled = law === "paste";
    try {
      const terms = o.parse(text), asked = Number(element("n").value);
      if (law !== "paste" && !(Number.isInteger(asked) && asked >= 2 && asked <= 256)) throw new Error(`N must be a whole number from 2 to 256; got ${element("n").value || "nothing"}`);
      const rewards = group(law, asked), n = rewards.length;
      const open = element("k").value ? Number(element("k").value) : n - 1;
      if (!(Number.isInteger(open) && open >= 1)) throw new Error(`K must be a whole number from 1; got ${element("k").value}`);
      const k = o.largest(terms, open);
      if (k > n - 1) throw new Error(`K must be at most N − 1 for advantages; got K = ${k}, N = ${n}`);
      const fixed = terms.map((term) => ({ ...term, k: term.k ?? (element("k").value ? open : null) }));
      drawSpectrum(terms, open, text);
      drawWeights(fixed, n, open, text);
      drawAdvantages(fixed, rewards, text);
      drawPrice(terms, open, text);
      showBias(terms, open, text);
      const weights = o.rankWeights(terms, open);
      const worst = weights[0] > 1 - 1e-9 && weights.length > 1 && !/min|bottom/.test(text) ? ` In groups of ${n} it is min@${k}: a tail this thin needs larger groups.` : "";
      element("summary").textContent = `${text} compares K = ${k} of N = ${n} rewards. ` +
        (o.hasPopulation(terms) ? "The table shows how far that is from the risk it is named after." : "It has no population risk: K is part of what it means.") + worst;
      element("error").textContent = "";
      element("panels").style.opacity = 1;
      const state = new URLSearchParams(FIELDS.filter((id) => element(id).value !== element(id).defaultValue || id === "objective")
        .filter((id) => id !== "paste" || law === "paste").map((id) => [id, element(id).value]));
      history.replaceState(null, "", `#${state}`);
    } catch (error) {
      element("error").textContent = error.message;
      element("panels").style.opacity = 0.4;
    }
  }

  function restore() {
    for (const [id, value] of new URLSearchParams(location.hash.slice(1))) if (FIELDS.includes(id)) element(id).value = value;
    update();
  }

  element("form").addEventListener("input", update);
  element("form").addEventListener("submit", (event) => event.preventDefault());
  element("link").addEventListener("click", async () => {
    const copied = await navigator.clipboard?.writeText(location.href).then(() => true, () => false);
    element("copied").textContent = copied ? "Copied." : "Copy the address of this page: it is the link.";
  });
  window.addEventListener("hashchange", restore);
  restore();
})();
