// Builds app/ from src/ with `npm ci && npm run build`. Users need no Node: app/ travels in the Python package.
import { build, transform } from "esbuild";
import { copyFileSync, existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { gzipSync } from "node:zlib";
import { strings } from "./src/strings.js";

const OUT = process.argv[2] ?? "app";
const LITERT = "node_modules/@litertjs/core/wasm/litert_wasm_compat_internal";
const COPIED = ["index.html", "app.css", "icon.svg", "icon-180.png", "icon-192.png", "icon-512.png", "sw.js"];
const BUNDLED = ["@litertjs/core", "@litertjs/wasm-utils", "dicom-parser"];

rmSync(OUT, { recursive: true, force: true });
mkdirSync(`${OUT}/wasm`, { recursive: true });
await build({
  entryPoints: ["src/main.js"], outfile: `${OUT}/app.js`, bundle: true, format: "esm", minify: true,
  target: ["chrome109", "safari16.4"], legalComments: "none", alias: { zlib: "./src/no-zlib.js" },
});
for (const name of COPIED) copyFileSync(`src/${name}`, `${OUT}/${name}`);

// Of LiteRT.js's four variants the one that every browser runs. Unpacked again on export.
const loader = await transform(readFileSync(`${LITERT}.js`, "utf8"), { minify: true, target: ["chrome109", "safari16.4"] });
writeFileSync(`${OUT}/wasm/litert_wasm_compat_internal.js`, loader.code);
writeFileSync(`${OUT}/wasm/litert_wasm_compat_internal.wasm.gz`, gzipSync(readFileSync(`${LITERT}.wasm`), { level: 9 }));

const icon = (size, type, purpose) => ({ src: size === "any" ? "icon.svg" : `icon-${size}.png`, sizes: size === "any" ? size : `${size}x${size}`, type, purpose });
const manifest = {
  id: "./", start_url: "./", scope: "./", display: "standalone", lang: strings.language,
  name: strings.appName, short_name: strings.title, description: strings.appDescription,
  background_color: "#101214", theme_color: "#101214",
  icons: [icon(192, "image/png", "any"), icon(512, "image/png", "any"), icon(512, "image/png", "maskable"), icon("any", "image/svg+xml", "any")],
};
writeFileSync(`${OUT}/app.webmanifest`, JSON.stringify(manifest, null, 2) + "\n");

const rule = `\n${"-".repeat(80)}\n\n`;
const licences = BUNDLED.map((name) => {
  const { version, license } = JSON.parse(readFileSync(`node_modules/${name}/package.json`));
  const text = `node_modules/${name}/LICENSE`;
  return `app.js contains ${name} ${version} (${license})\n\n` + (existsSync(text) ? readFileSync(text, "utf8") : "Text at the end.\n");
});
const apache = readFileSync("../../../LICENSE", "utf8");
writeFileSync(`${OUT}/licences.txt`, ["busmt: Apache License 2.0, text at the end.\n", ...licences, readFileSync("src/licences-wasm.txt", "utf8"), apache].join(rule));
