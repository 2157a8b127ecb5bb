// Leaves a request in the middle: its work stops within one denoising step.

import grpc from "@grpc/grpc-js";
import { deadline, explain, openClient, specOf, wishOf } from "./client.js";

const wish = wishOf({ tier: "pro" });
const client = openClient(wish.address);
const call = client.StreamGenerateImages({ spec: specOf(wish) }, deadline(wish.timeout));
let moved;
try {
  for await (const { progress } of call) {
    if (progress?.stage !== "STAGE_DIFFUSION" || progress.completed_step_count < 3) continue;
    moved = progress;
    // The same happens to a unary call: what `client.GenerateImages(...)` returns has `cancel()`
    // too; and to every call whose process ends.
    call.cancel();
  }
  console.error("it was done before it could be cancelled");
  process.exitCode = 1;
} catch (error) {
  if (error.code === grpc.status.CANCELLED) {
    console.log(`cancelled after step ${moved.completed_step_count} of ${moved.step_count}`);
  } else {
    console.error(explain(error));
    process.exitCode = 1;
  }
} finally {
  client.close();
}
