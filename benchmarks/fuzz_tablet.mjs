// The tablet app's reader outside of a browser, for benchmarks/fuzz_inputs.py: a path per line in, an answer per line out.
import { readFile } from "node:fs/promises";
import { basename } from "node:path";
import { createInterface } from "node:readline";
import { readImage } from "../busmt/deployment/tablet/src/read.js";
import { Unusable } from "../busmt/deployment/tablet/src/unusable.js";

for await (const path of createInterface({ input: process.stdin })) {
  const content = await readFile(path);
  const file = { name: basename(path), arrayBuffer: async () => Uint8Array.from(content).buffer };
  const before = process.cpuUsage();
  const answer = await read(file);
  const { user, system } = process.cpuUsage(before);
  console.log(JSON.stringify({ ...answer, seconds: (user + system) / 1e6 }));
}

async function read(file) {
  try {
    const { grey, height, width, spacing } = await readImage(file);
    if (grey.length !== height * width) return { crashed: `${grey.length} grey levels for ${height} x ${width}` };
    if (spacing && !(spacing.row > 0 && spacing.column > 0)) return { crashed: `spacing ${JSON.stringify(spacing)}` };
    return {};
  } catch (error) {
    return error instanceof Unusable ? { refused: error.message } : { crashed: String(error?.stack ?? error) };
  }
}
