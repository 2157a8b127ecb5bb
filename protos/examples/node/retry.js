// Retries that help: the connection's by the service config, an overload's when the server says.

import { randomUUID } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import grpc from "@grpc/grpc-js";
import { explain, openClient, retryDelay, save, specOf, unary, wishOf } from "./client.js";

/** Returns the response, of the first call or of one that the server asked for. */
async function generate(client, request, seconds) {
  const ends = Date.now() + 1000 * seconds;
  for (;;) {
    try {
      return await unary(client, "GenerateImages", request, { deadline: ends });
    } catch (error) {
      // Without a hint it was no overload, or one that coming again cannot mend. UNAVAILABLE has
      // been retried by then, as the service config says.
      const hint = retryDelay(error);
      // Not all of those who were refused together come again together.
      const delay = hint === null ? Infinity : hint * (1 + Math.random() / 2);
      if (Date.now() + delay >= ends) throw error;
      const name = grpc.status[error.code];
      console.log(`${name}: ${error.details}; again in ${(delay / 1000).toFixed(2)} s`);
      await sleep(delay);
    }
  }
}

const wish = wishOf();
const client = openClient(wish.address);
try {
  // With an ID a retry never does the work twice.
  const request = { spec: specOf(wish), request_id: randomUUID() };
  const response = await generate(client, request, Number(wish.timeout));
  save(response.images[0], wish.output);
} catch (error) {
  console.error(explain(error));
  process.exitCode = 1;
} finally {
  client.close();
}
