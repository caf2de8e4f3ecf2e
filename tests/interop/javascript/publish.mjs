// Sends two AI jobs to Forebay; reads one completion from the stream and one from an inbox.
import assert from "node:assert/strict";
import { jetstream } from "@nats-io/jetstream";
import { connect, createInbox } from "@nats-io/transport-node";

const job = { body: { messages: [{ role: "user", content: "hello from javascript" }] } };
setTimeout(() => { throw new Error("no answer within 30 seconds"); }, 30_000).unref();

// This client wants the credential apart from the address.
const { host, username, password } = new URL(process.env.NATS_URL);
const nc = await connect({ servers: host, user: username, pass: password });
const js = jetstream(nc);

// Every completion is kept in a stream, under a subject made of team, batch (here none) and id.
await js.publish("ai.jobs.chat.interop", JSON.stringify({ id: "javascript-1", ...job }));
const completions = await js.consumers.get("AI_COMPLETIONS", {
  filter_subjects: "ai.completions.interop._.javascript-1",
});
show(await completions.next(), "javascript-1");

// A job with `reply_to` has its completion sent there too, as a plain NATS message.
const inbox = createInbox();
const replies = nc.subscribe(inbox, { max: 1 });
await js.publish("ai.jobs.chat.interop", JSON.stringify({ id: "javascript-2", reply_to: inbox, ...job }));
for await (const message of replies) show(message, "javascript-2");

await nc.close();

function show(message, id) {
  assert.ok(message, "no answer within 30 seconds");
  const completion = message.json();
  assert.deepEqual([completion.id, completion.custom_id, completion.status], [id, id, "succeeded"]);
  const { content } = completion.response.body.choices[0].message;
  assert.match(content, /hello from javascript/);
  console.log(`${id}: ${content}`);
}
