// One picture, when it is finished.

import { deadline, explain, milliseconds, openClient, save, specOf, stageName, unary, wishOf } from "./client.js";

const wish = wishOf();
const client = openClient(wish.address);
try {
  // Always with a deadline: what cannot be done in its time is refused at once, and what the
  // deadline overtakes stops within one step.
  const request = { spec: specOf(wish) };
  const response = await unary(client, "GenerateImages", request, deadline(wish.timeout));
  save(response.images[0], wish.output);
  for (const { stage, duration } of response.stats.stages) {
    console.log(`  ${stageName(stage)}: ${Math.round(milliseconds(duration))} ms`);
  }
} catch (error) {
  console.error(explain(error));
  process.exitCode = 1;
} finally {
  client.close();
}
