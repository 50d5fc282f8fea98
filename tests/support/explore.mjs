// Read {objectives, rewards, levels} as JSON from standard input, write what the page computes of each as JSON.
import { createRequire } from "node:module";
import { readFileSync } from "node:fs";

const o = createRequire(import.meta.url)(process.argv[2]);
const { objectives, rewards, levels } = JSON.parse(readFileSync(0, "utf8"));
const n = rewards.length;
const equal = rewards.map(() => 1 / n);
process.stdout.write(JSON.stringify(objectives.map((text) => {
  const terms = o.parse(text);
  return {
    rank_weights: o.rankWeights(terms, n - 1),
    sample_weights: o.sampleWeights(terms, n, n),
    advantages: o.advantages(terms, rewards),
    spectrum: levels.map((u) => o.spectrum(terms, u, n - 1)),
    exact: o.exactValue(terms, rewards, equal, n - 1),
    normal: o.finiteValue(terms, o.LAWS.normal, n - 1),
    t3: o.finiteValue(terms, o.LAWS.t3, n - 1),
    population: o.hasPopulation(terms) ? [o.populationValue(terms, o.LAWS.normal), o.populationValue(terms, o.LAWS.t3)] : null,
  };
})));
