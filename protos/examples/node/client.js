// A client of the mesh: what the examples beside this file share, and yours may start from.

import { readFileSync, writeFileSync } from "node:fs";
import { parseArgs } from "node:util";
import grpc from "@grpc/grpc-js";
import protoLoader from "@grpc/proto-loader";

const PROTOS = new URL("../../", import.meta.url);
// The compiled protos, with all that they import: no path to search, nothing to generate.
const definition = protoLoader.loadFileDescriptorSetFromBuffer(
  readFileSync(new URL("gen/imaging.binpb", PROTOS)),
  { keepCase: true, longs: String, enums: String, defaults: true, oneofs: true },
);
const { sangsang } = grpc.loadPackageDefinition(definition);
const SERVICE_CONFIG = readFileSync(
  new URL("sangsang/imaging/v1/image_generation_service_config.json", PROTOS),
  "utf8",
);

/** Returns a client that retries UNAVAILABLE by itself. */
export function openClient(address) {
  return new sangsang.imaging.v1.ImageGenerationService(
    address,
    grpc.credentials.createInsecure(),
    // Messages may carry large images.
    { "grpc.service_config": SERVICE_CONFIG, "grpc.max_receive_message_length": 64 << 20 },
  );
}

/** Returns what every example takes on its command line. */
export function wishOf({ tier = "free" } = {}) {
  const text = (fallback) => ({ type: "string", default: fallback });
  const { values } = parseArgs({
    options: {
      address: text("127.0.0.1:50050"),
      model: text("pocket"),
      prompt: text("a rocket on a yellow background"),
      seed: text("7"),
      tier: text(tier),
      output: text("rocket.png"),
      timeout: text("60"),
    },
  });
  return values;
}

/** Returns the request's core from the command line. */
export function specOf(wish) {
  return {
    model_id: wish.model,
    prompt: wish.prompt,
    seed: wish.seed,
    tier: `TIER_${wish.tier.toUpperCase()}`,
  };
}

/** Returns the time by which a call is to be done, after so many seconds. */
export function deadline(seconds) {
  return { deadline: Date.now() + 1000 * Number(seconds) };
}

/** Calls a unary method; returns a promise of its response. */
export function unary(client, method, request, options) {
  return new Promise((resolve, reject) => {
    client[method](request, options, (error, response) => (error ? reject(error) : resolve(response)));
  });
}

/** Writes a picture and says what it is. */
export function save(image, path) {
  writeFileSync(path, image.data.content);
  const { width_px, height_px, mime_type } = image.data;
  console.log(`${path}: ${width_px}x${height_px} ${mime_type}, seed ${image.seed}`);
}

/** Returns a stage's name as people write it. */
export function stageName(stage) {
  return stage.replace("STAGE_", "").toLowerCase();
}

/** Returns the milliseconds of a `google.protobuf.Duration`. */
export function milliseconds({ seconds, nanos }) {
  return 1000 * Number(seconds) + nanos / 1e6;
}

/** Returns what a failed call says: its code and reason, and the fields that were wrong. */
export function explain(error) {
  const details = detailsOf(error);
  const bad = details["google.rpc.BadRequest"]?.field_violations ?? [];
  return [
    `${grpc.status[error.code]} ${details["google.rpc.ErrorInfo"]?.reason ?? ""}`,
    error.details,
    ...bad.map(({ field, description }) => `  ${field}: ${description}`),
  ].join("\n");
}

/** Returns after how many milliseconds the server asks to be called again; null if it does not. */
export function retryDelay(error) {
  const retry = detailsOf(error)["google.rpc.RetryInfo"];
  return retry?.retry_delay ? milliseconds(retry.retry_delay) : null;
}

/** Returns a call's error details by their type's name. */
function detailsOf(error) {
  const [packed] = error.metadata?.get("grpc-status-details-bin") ?? [];
  if (!packed) return {};
  const { details } = definition["google.rpc.Status"].deserialize(packed);
  const named = details.map(({ type_url, value }) => [type_url.split("/").pop(), value]);
  return Object.fromEntries(
    named.map(([name, value]) => [name, definition[name]?.deserialize(value)]),
  );
}
