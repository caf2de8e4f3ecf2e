"""Sends AI jobs to Forebay; reads completions from the stream and from an inbox; carries a large one as an object."""
import asyncio, json, os, secrets
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

    # What no message can hold is kept as an object, which a header names.
    large = {"id": "python-3", "reply_to": inbox, "body": {
        "messages": [{"role": "user", "content": "hello from python " + "x" * 9_000_000}]}}
    requests = await js.object_store("AI_REQUESTS")
    name = f"interop/{secrets.token_hex(16)}"  # a name that nobody can guess
    await requests.put(name, json.dumps(large).encode())
    await js.publish("ai.jobs.chat.interop", b'{"id": "python-3"}', headers={"Forebay-Object": name})
    message = await replies.next_msg(timeout=30)
    answers = await js.object_store("AI_ANSWERS")
    message.data = (await answers.get(message.headers["Forebay-Object"])).data
    show(message, "python-3")

    await nc.close()


def show(message, job_id):
    completion = json.loads(message.data)
    assert completion["id"] == completion["custom_id"] == job_id, completion
    assert completion["status"] == "succeeded", completion
    content = completion["response"]["body"]["choices"][0]["message"]["content"]
    assert "hello from python" in content, completion
    print(f"{job_id}: {content[:60]}")


asyncio.run(asyncio.wait_for(main(), timeout=30))
