// Builds app/ from src/ with `npm ci && npm run build`. Users need no Node: app/ travels in the Python package.
import { build } from "esbuild";
import { copyFileSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { gzipSync } from "node:zlib";

const WASM = "node_modules/@litertjs/core/wasm";
rmSync("app", { recursive: true, force: true });
mkdirSync("app/wasm", { recursive: true });
await build({
  entryPoints: ["src/main.js"], outfile: "app/app.js", bundle: true, format: "esm", minify: true,
  target: ["chrome109", "safari16.4"], legalComments: "inline", alias: { zlib: "./src/no-zlib.js" },
});
for (const name of ["index.html", "app.css", "app.webmanifest", "icon.svg", "sw.js"]) copyFileSync(`src/${name}`, `app/${name}`);
// with relaxed SIMD (Chrome) and without (Safari); LiteRT.js takes the one that fits. Unpacked again on export.
for (const name of ["litert_wasm_internal", "litert_wasm_compat_internal"]) {
  copyFileSync(`${WASM}/${name}.js`, `app/wasm/${name}.js`);
  writeFileSync(`app/wasm/${name}.wasm.gz`, gzipSync(readFileSync(`${WASM}/${name}.wasm`), { level: 9 }));
}
