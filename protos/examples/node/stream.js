// Progress, previews and the picture as they come; a stream that breaks is taken up again.

import { randomUUID } from "node:crypto";
import { writeFileSync } from "node:fs";
import grpc from "@grpc/grpc-js";
import { deadline, explain, milliseconds, openClient, save, specOf, stageName, wishOf } from "./client.js";

const ATTEMPTS = 3;

const wish = wishOf({ tier: "pro" });
// With an ID the call may be repeated: it joins the request that runs, or gets its result again.
const request = {
  spec: specOf(wish),
  request_id: randomUUID(),
  preview_interval_step_count: 5,
};

/** Yields the events of the stream, and of the next one where a connection was lost. */
async function* events(client) {
  for (let attempt = 1; ; attempt += 1) {
    try {
      yield* client.StreamGenerateImages(request, deadline(wish.timeout));
      return;
    } catch (error) {
      // gRPC retries a stream only until its first event, so this is ours to do.
      if (error.code !== grpc.status.UNAVAILABLE || attempt === ATTEMPTS) throw error;
      console.log("the stream broke; joining the request again");
    }
  }
}

/** Prints one event; previews and the picture become files. */
function show({ event, accepted, progress, image, summary }) {
  if (event === "accepted") {
    console.log(`accepted ${accepted.request_id}, ${accepted.queue_position} ahead`);
  } else if (event === "progress") {
    const { stage, completed_step_count, step_count, preview } = progress;
    console.log(`${stageName(stage)} ${completed_step_count} of ${step_count}`);
    if (preview?.content.length) {
      const path = wish.output.replace(/(\.\w+)?$/, `.${completed_step_count}.jpg`);
      writeFileSync(path, preview.content);
      console.log(`  preview ${path}`);
    }
  } else if (event === "image") {
    save(image, wish.output);
  } else {
    console.log(`done in ${Math.round(milliseconds(summary.total_duration))} ms`);
  }
}

const client = openClient(wish.address);
try {
  for await (const event of events(client)) show(event);
} catch (error) {
  console.error(explain(error));
  process.exitCode = 1;
} finally {
  client.close();
}
