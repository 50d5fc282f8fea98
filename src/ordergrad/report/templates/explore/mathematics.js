// The mathematics of objectives, as in ordergrad's bernstein.py, objectives/ and estimators.py; tests compare the numbers.
"use strict";

const ordergrad = (() => {
  const range = (n, f) => Array.from({ length: n }, (_, i) => f(i));
  const sum = (values) => values.reduce((a, b) => a + b, 0);
  const snap = (x) => (Math.abs(x - Math.round(x)) <= 1e-12 * Math.max(Math.abs(x), Math.abs(Math.round(x))) ? Math.round(x) : x);

  // Special functions

  const LANCZOS = [0.99999999999980993, 676.5203681218851, -1259.1392167224028, 771.32342877765313,
    -176.61502916214059, 12.507343278686905, -0.13857109526572012, 9.9843695780195716e-6, 1.5056327351493116e-7];

  function logGamma(x) {
    if (x < 0.5) return Math.log(Math.PI / Math.sin(Math.PI * x)) - logGamma(1 - x);
    const t = x + 6.5;
    const series = LANCZOS.reduce((total, c, i) => total + (i ? c / (x - 1 + i) : c), 0);
    return 0.5 * Math.log(2 * Math.PI) + (x - 0.5) * Math.log(t) - t + Math.log(series);
  }

  const logBinomial = (n, r) => logGamma(n + 1) - logGamma(r + 1) - logGamma(n - r + 1);

  /** The distribution function of the normal distribution: a series near 0, a continued fraction in the tails. */
  function normal(z) {
    if (z === -Infinity) return 0;
    if (z === Infinity) return 1;
    const density = normalDensity(z);
    if (Math.abs(z) < 4) {
      let term = z, total = z;
      for (let i = 3; Math.abs(term) > 1e-18 * Math.abs(total); i += 2) total += term *= (z * z) / i;
      return 0.5 + density * total;
    }
    let fraction = 0;
    for (let i = 60; i > 0; i--) fraction = i / (Math.abs(z) + fraction);
    const tail = density / (Math.abs(z) + fraction);
    return z < 0 ? tail : 1 - tail;
  }

  const normalDensity = (z) => Math.exp(-0.5 * z * z) / Math.sqrt(2 * Math.PI);

  /** The normal quantile: bisection, then Newton steps. */
  function normalQuantile(u) {
    if (u <= 0) return -Infinity;
    if (u >= 1) return Infinity;
    if (u > 0.5) return -normalQuantile(1 - u);
    let low = -40, high = 0;
    for (let i = 0; i < 40; i++) {
      const middle = (low + high) / 2;
      if (normal(middle) < u) low = middle; else high = middle;
    }
    let z = (low + high) / 2;
    for (let i = 0; i < 3; i++) z -= (normal(z) - u) / normalDensity(z);
    return z;
  }

  /** The regularised incomplete beta function, by its continued fraction (Lentz). */
  function incompleteBeta(a, b, x) {
    if (x <= 0) return 0;
    if (x >= 1) return 1;
    if (x > (a + 1) / (a + b + 2)) return 1 - incompleteBeta(b, a, 1 - x);
    const front = Math.exp(logGamma(a + b) - logGamma(a) - logGamma(b) + a * Math.log(x) + b * Math.log1p(-x)) / a;
    let c = 1, d = 1 / (1 - ((a + b) * x) / (a + 1)), result = d;
    for (let m = 1; m < 1000; m++) {
      for (const factor of [(m * (b - m) * x) / ((a + 2 * m - 1) * (a + 2 * m)),
        (-(a + m) * (a + b + m) * x) / ((a + 2 * m) * (a + 2 * m + 1))]) {
        d = 1 / (1 + factor * d);
        c = 1 + factor / c;
        result *= c * d;
      }
      if (Math.abs(c * d - 1) < 1e-16) break;
    }
    return front * result;
  }

  // Kinds of objectives: rank weights at K, and the population's spectrum with the levels where it jumps

  const ranks = (first, last, k) => range(k, (i) => (i + 1 >= first && i + 1 <= last ? 1 / (last - first + 1) : 0));

  function between(lo, hi, k) {
    const start = snap(lo * k), stop = snap(hi * k);
    return range(k, (i) => Math.min(Math.max(Math.min(i + 1, stop) - Math.max(i, start), 0), 1) / (stop - start));
  }

  function position(at, k) {
    const place = Math.min(Math.max(snap(at), 1), k), below = Math.floor(place), alpha = range(k, () => 0);
    alpha[below - 1] += 1 - (place - below);
    alpha[Math.min(below, k - 1)] += place - below;
    return alpha;
  }

  const POSITIONS = { hazen: (q, k) => q * k + 0.5, weibull: (q, k) => q * (k + 1), blom: (q, k) => q * (k + 0.25) + 0.375 };
  const increments = (phi) => (k) => range(k, (i) => phi((i + 1) / k) - phi(i / k));
  const inside = (lo, hi) => (value, name) => {
    if (!(value > lo && value < hi)) throw new Error(`${name} must lie between ${lo} and ${hi}; got ${value}`);
  };
  const share = inside(0, 1);
  const upTo = (value, name) => { if (value !== 1) share(value, name); };

  const band = (lo, hi) => ({
    weights: (k) => between(lo, hi, k),
    density: (u) => (u >= lo && u <= hi ? 1 / (hi - lo) : 0),
    breaks: [lo, hi],
  });
  const distortion = (phi, density) => ({ weights: increments(phi), density, breaks: [] });
  const counting = (weights) => ({ weights, needsK: true });
  const fixed = (alpha) => ({ weights: () => alpha, size: alpha.length });

  const KINDS = {
    mean: () => ({ weights: (k) => range(k, () => 1 / k), size: 1, density: () => 1, breaks: [] }),
    gini: () => fixed([-1, 1]),
    lmoment: (r) => fixed(range(r, (i) => ((-1) ** (r - i - 1) * Math.round(Math.exp(logBinomial(r - 1, i)))) / r)),
    weights: (...alpha) => fixed(alpha),
    max: () => counting((k) => ranks(k, k, k)),
    min: () => counting((k) => ranks(1, 1, k)),
    top: (m) => counting((k) => ranks(k - m + 1, k, k)),
    bottom: (m) => counting((k) => ranks(1, m, k)),
    rank: (j) => counting((k) => ranks(k + 1 - j, k + 1 - j, k)),
    topbottom: (m) => counting((k) => range(k, (i) => (ranks(1, m, k)[i] + ranks(k - m + 1, k, k)[i]) / 2)),
    midrange: () => counting((k) => range(k, (i) => (ranks(1, 1, k)[i] + ranks(k, k, k)[i]) / 2)),
    cvar: (q) => (upTo(q, "q"), band(0, q)),
    uppercvar: (q) => (upTo(q, "q"), band(1 - q, 1)),
    range: (lo, hi) => band(lo, hi),
    trimmed: (p) => band(p, 1 - p),
    var: (q) => (upTo(q, "q"), { weights: (k) => ranks(Math.ceil(snap(q * k)), Math.ceil(snap(q * k)), k), quantile: q }),
    quantile: (q, method = "hazen") => {
      share(q, "q");
      if (method === "harrelldavis") {
        const phi = (k) => (u) => incompleteBeta(q * (k + 1), (1 - q) * (k + 1), u);
        return { weights: (k) => increments(phi(k))(k), quantile: q };
      }
      if (!POSITIONS[method]) throw new Error(`method must be one of hazen, weibull, blom, harrelldavis; got ${method}`);
      return { weights: (k) => position(POSITIONS[method](q, k), k), quantile: q };
    },
    median: () => KINDS.quantile(0.5),
    winsorized: (p) => ({
      weights: (k) => {
        const alpha = between(p, 1 - p, k).map((w) => (1 - 2 * p) * w), edge = Math.floor(snap(p * k));
        alpha[edge] += p;
        alpha[k - 1 - edge] += p;
        return alpha;
      },
    }),
    maxrl: () => ({ weights: (k) => range(k, (i) => 1 / (k - i)) }),
    wang: (shift) => distortion((u) => normal(normalQuantile(u) + shift),
      (u) => Math.exp(-shift * (shift ? normalQuantile(u) : 0) - (shift * shift) / 2)),
    power: (gamma) => distortion((u) => 1 - (1 - u) ** gamma, (u) => gamma * (1 - u) ** (gamma - 1)),
    exponential: (gamma) => distortion((u) => Math.expm1(-gamma * u) / Math.expm1(-gamma),
      (u) => (-gamma * Math.exp(-gamma * u)) / Math.expm1(-gamma)),
  };

  const NUMBER = String.raw`(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?`;
  const TERM = new RegExp(String.raw`^([+-]?)(?:(${NUMBER})\*)?([a-z]+)((?::(?:[+-]?${NUMBER}|[a-z]+))*)(?:@(${NUMBER}))?`);

  /** The terms [{coefficient, name, k, kind}] of an objective string. */
  function parse(text) {
    const terms = [];
    let rest = text.replace(/\s/g, "");
    while (rest || !terms.length) {
      const match = TERM.exec(rest);
      if (!match || (terms.length && !match[1])) {
        throw new Error(`an objective is terms [c*]name[:number...][@K] joined by + or -; cannot read “${rest}”`);
      }
      const [all, sign, factor, name, words, size] = match;
      const make = KINDS[name];
      if (!make) throw new Error(`unknown objective “${name}”; known: ${Object.keys(KINDS).join(", ")}`);
      const numbers = words.split(":").slice(1).map((word) => (/^[a-z]+$/.test(word) ? word : Number(word)));
      if (numbers.length < make.length) throw new Error(`${name} needs ${make.length} number(s) after a colon`);
      const kind = make(...numbers);
      if (kind.needsK && !size) throw new Error(`${name} needs a comparison size: ${name}@4`);
      if (kind.size && size) throw new Error(`${name} takes no @K: its comparison size is ${kind.size}`);
      const k = kind.size ?? (size ? Number(size) : null);
      const counted = ["top", "bottom", "rank", "topbottom"].includes(name) ? numbers[0] : 1;
      if (k !== null && !(k >= counted)) throw new Error(`K must be at least ${counted}; got @${size}`);
      terms.push({ coefficient: (sign === "-" ? -1 : 1) * Number(factor ?? 1), name, k, kind });
      rest = rest.slice(all.length);
    }
    return terms;
  }

  /** Pairs [coefficient, rank weights]: open levels at K, a real K as the mixture of its neighbours. */
  function components(terms, open) {
    return terms.flatMap(({ coefficient, k, kind }) => {
      const size = k ?? open, low = Math.floor(size), part = size - low;
      const pairs = [[coefficient * (1 - part), kind.weights(low)]];
      return part ? [...pairs, [coefficient * part, kind.weights(low + 1)]] : pairs;
    });
  }

  const largest = (terms, open) => Math.max(...terms.map(({ k }) => Math.ceil(k ?? open)));

  /** Where rank j of a random k-subset lies among n sorted rewards. */
  function rankProbabilities(j, k, n) {
    return range(n, (i) => {
      const m = i + 1;
      if (m < j || n - m < k - j) return 0;
      return Math.exp(logBinomial(m - 1, j - 1) + logBinomial(n - m, k - j) - logBinomial(n, k));
    });
  }

  function subsetWeights(alpha, n) {
    if (alpha.length > n) throw new Error(`K must be at most ${n}; got K=${alpha.length}`);
    const total = range(n, () => 0);
    alpha.forEach((a, i) => { if (a) rankProbabilities(i + 1, alpha.length, n).forEach((p, m) => (total[m] += a * p)); });
    return total;
  }

  const mix = (pairs, n) => pairs.reduce(
    (total, [c, alpha]) => subsetWeights(alpha, n).map((w, i) => total[i] + c * w), range(n, () => 0));

  const sampleWeights = (terms, n, open = n) => mix(components(terms, open), n);
  const rankWeights = (terms, open) => mix(components(terms, open), largest(terms, open));

  /** The advantages of rewards: sort, scan with the sample weights of N - 1, centre, unsort. */
  function advantages(terms, rewards) {
    const n = rewards.length, w = sampleWeights(terms, n - 1, n - 1);
    const order = range(n, (i) => i).sort((a, b) => rewards[a] - rewards[b]);
    const rising = [0];
    for (let m = 1; m < n; m++) rising.push(rising[m - 1] + n * w[m - 1] * (rewards[order[m]] - rewards[order[m - 1]]));
    const mean = sum(rising) / n, result = [];
    order.forEach((i, m) => (result[i] = rising[m] - mean));
    return result;
  }

  /** The finite spectrum, a Bernstein polynomial. */
  function spectrum(terms, u, open) {
    return sum(components(terms, open).map(([c, alpha]) => c * sum(alpha.map((a, i) => {
      const k = alpha.length;
      if (!a || (u === 0 && i > 0) || (u === 1 && i < k - 1)) return 0;
      const log = (i ? i * Math.log(u) : 0) + (k - 1 - i ? (k - 1 - i) * Math.log1p(-u) : 0);
      return a * k * Math.exp(logBinomial(k - 1, i) + log);
    }))));
  }

  /** Whether every term stands for a risk of the population. */
  const hasPopulation = (terms) => terms.every(({ k, kind }) => kind.size || (k === null && (kind.density || kind.quantile)));

  // Reward distributions: the mean of a spectrum's reward, ∫ φ(u) Q(u) du, by Gauss-Legendre in x or θ

  const GAUSS = (() => {
    const n = 48, nodes = [], masses = [];
    for (let i = 1; i <= n; i++) {
      let x = Math.cos((Math.PI * (i - 0.25)) / (n + 0.5)), slope = 0;
      for (let step = 0; step < 100; step++) {
        let p0 = 1, p1 = x;
        for (let d = 2; d <= n; d++) [p0, p1] = [p1, ((2 * d - 1) * x * p1 - (d - 1) * p0) / d];
        slope = (n * (x * p1 - p0)) / (x * x - 1);
        const change = p1 / slope;
        x -= change;
        if (Math.abs(change) < 1e-16) break;
      }
      nodes.push(x);
      masses.push(2 / ((1 - x * x) * slope * slope));
    }
    return nodes.map((x, i) => [x, masses[i]]);
  })();

  function integrate(f, edges, pieces = 24) {
    let total = 0;
    for (let e = 0; e + 1 < edges.length; e++) {
      const step = (edges[e + 1] - edges[e]) / pieces;
      if (step <= 0) continue;
      for (let p = 0; p < pieces; p++) {
        for (const [x, mass] of GAUSS) total += (mass * step * f(edges[e] + step * (p + (x + 1) / 2))) / 2;
      }
    }
    return total;
  }

  const tLevel = (angle) => 0.5 + (angle + Math.sin(angle) * Math.cos(angle)) / Math.PI;
  function tAngle(u) {
    let low = -Math.PI / 2, high = Math.PI / 2;
    for (let i = 0; i < 80; i++) {
      const middle = (low + high) / 2;
      if (tLevel(middle) < u) low = middle; else high = middle;
    }
    return (low + high) / 2;
  }

  /** Each law: its quantile function, and coordinates (level, place, mass) in which integrals over it are smooth. */
  const LAWS = {
    normal: { quantile: normalQuantile, from: -12, to: 12, level: normal, at: normalQuantile, term: (z) => z * normalDensity(z) },
    lognormal: { quantile: (u) => Math.exp(normalQuantile(u)), from: -12, to: 14, level: normal, at: normalQuantile,
      term: (z) => Math.exp(z) * normalDensity(z) },
    t3: { quantile: (u) => Math.sqrt(3) * Math.tan(tAngle(u)), from: -Math.PI / 2, to: Math.PI / 2, level: tLevel, at: tAngle,
      term: (a) => (2 * Math.sqrt(3) * Math.sin(a) * Math.cos(a)) / Math.PI },
    uniform: { quantile: (u) => u, from: 0, to: 1, level: (u) => u, at: (u) => u, term: (u) => u },
  };

  const expectation = (law, phi, breaks) => integrate((x) => phi(law.level(x)) * law.term(x),
    [law.from, ...breaks.filter((u) => u > 0 && u < 1).map(law.at), law.to].sort((a, b) => a - b));

  const finiteValue = (terms, law, open) => expectation(law, (u) => spectrum(terms, u, open), []);

  /** The risk that the objective is named after: levels without @K in the population, the others as they are. */
  function populationValue(terms, law) {
    return sum(terms.map(({ coefficient, kind }) => {
      if (kind.quantile) return coefficient * law.quantile(kind.quantile);
      const density = kind.density ?? ((u) => spectrum([{ coefficient: 1, k: kind.size, kind }], u));
      return coefficient * expectation(law, density, kind.breaks ?? []);
    }));
  }

  /** The value of rewards of known probabilities: increments of Φ, K independent draws. */
  function exactValue(terms, rewards, probabilities, open) {
    const order = range(rewards.length, (i) => i).sort((a, b) => rewards[a] - rewards[b]);
    let level = 0, before = 0, total = 0;
    for (const i of order) {
      level = Math.min(level + probabilities[i], 1);
      const now = sum(components(terms, open).map(([c, alpha]) => c * sum(alpha.map((a, j) =>
        a ? a * incompleteBeta(j + 1, alpha.length - j, level > 1 - 1e-15 ? 1 : level) : 0))));
      total += rewards[i] * (now - before);
      before = now;
    }
    return total;
  }

  /** d(objective)/d(success rate) for 0/1 rewards: φ(1 - p). For the mean it is 1. */
  const price = (terms, p, open) => spectrum(terms, 1 - p, open);

  return { parse, components, largest, rankWeights, sampleWeights, advantages, spectrum, hasPopulation, finiteValue,
    populationValue, exactValue, price, LAWS, normal, normalQuantile, incompleteBeta };
})();

if (typeof module !== "undefined") module.exports = ordergrad;
