// The network in the browser, through LiteRT.js on the CPU: the same answer on every device, unlike on GPUs.
import { loadAndCompile, loadLiteRt, Tensor } from "@litertjs/core";

/** A function from the input (S x S) to {mask, label, attention}: plain arrays; attention may be missing. */
export async function loadModel(card) {
  await loadLiteRt("wasm/litert_wasm_compat_internal.js");
  const model = await loadAndCompile("model.tflite", { accelerator: "wasm" });
  const shape = [1, card.input.size, card.input.size, 1];
  return async (square) => {
    const input = new Tensor(square, shape);
    const outputs = await model.run({ [card.input.name]: input });
    input.delete();
    const result = {};
    for (const [name, tensor] of Object.entries(outputs)) {
      result[name] = Float32Array.from(tensor.toTypedArray());
      tensor.delete();
    }
    return result;
  };
}
