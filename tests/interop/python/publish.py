"""Sends two AI jobs to Forebay; reads one completion from the stream and one from an inbox."""
import asyncio, json, os
import nats

JOB = {"body": {"messages": [{"role": "user", "content": "hello from python"}]}}


async def main():
    nc = await nats.connect(os.environ["NATS_URL"])
    js = nc.jetstream()

    # Every completion is kept in a stream, under a subject made of team, batch (here none) and id.
    await js.publish("ai.jobs.chat.interop", json.dumps({"id": "python-1", **JOB}).encode())
    completions = await js.subscribe(
        "ai.completions.interop._.python-1", stream="AI_COMPLETIONS", ordered_consumer=True)
    show(await completions.next_msg(timeout=30), "python-1")

    # A job with `reply_to` has its completion sent there too, as a plain NATS message.
    inbox = nc.new_inbox()
    replies = await nc.subscribe(inbox)
    await js.publish(
        "ai.jobs.chat.interop", json.dumps({"id": "python-2", "reply_to": inbox, **JOB}).encode())
    show(await replies.next_msg(timeout=30), "python-2")

    await nc.close()


def show(message, job_id):
    completion = json.loads(message.data)
    assert completion["id"] == completion["custom_id"] == job_id, completion
    assert completion["status"] == "succeeded", completion
    content = completion["response"]["body"]["choices"][0]["message"]["content"]
    assert "hello from python" in content, completion
    print(f"{job_id}: {content}")


asyncio.run(asyncio.wait_for(main(), timeout=30))
