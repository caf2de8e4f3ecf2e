// Sends two AI jobs to Forebay; reads one completion from the stream and one from an inbox.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log"
	"os"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

func main() {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	nc := must(nats.Connect(os.Getenv("NATS_URL")))
	defer nc.Close()
	js := must(jetstream.New(nc))

	// Every completion is kept in a stream, under a subject made of team, batch (here none) and id.
	must(js.Publish(ctx, "ai.jobs.chat.interop", job("go-1", "")))
	completions := must(js.OrderedConsumer(ctx, "AI_COMPLETIONS", jetstream.OrderedConsumerConfig{
		FilterSubjects: []string{"ai.completions.interop._.go-1"},
	}))
	show("go-1", must(completions.Next(jetstream.FetchContext(ctx))).Data())

	// A job with `reply_to` has its completion sent there too, as a plain NATS message.
	inbox := nc.NewInbox()
	replies := must(nc.SubscribeSync(inbox))
	must(js.Publish(ctx, "ai.jobs.chat.interop", job("go-2", inbox)))
	show("go-2", must(replies.NextMsgWithContext(ctx)).Data)
}

type message struct {
	Role    string `json:"role"`
	Content string `json:"content"`
}

func job(id, replyTo string) []byte {
	job := map[string]any{
		"id":   id,
		"body": map[string]any{"messages": []message{{"user", "hello from go"}}},
	}
	if replyTo != "" {
		job["reply_to"] = replyTo
	}
	return must(json.Marshal(job))
}

func show(id string, data []byte) {
	var completion struct {
		ID       string `json:"id"`
		CustomID string `json:"custom_id"`
		Status   string `json:"status"`
		Response struct {
			Body struct {
				Choices []struct {
					Message message `json:"message"`
				} `json:"choices"`
			} `json:"body"`
		} `json:"response"`
	}
	if err := json.Unmarshal(data, &completion); err != nil {
		log.Fatal(err)
	}
	choices := completion.Response.Body.Choices
	if completion.ID != id || completion.CustomID != id || completion.Status != "succeeded" ||
		len(choices) == 0 || !strings.Contains(choices[0].Message.Content, "hello from go") {
		log.Fatalf("unexpected completion: %s", data)
	}
	fmt.Printf("%s: %s\n", id, choices[0].Message.Content)
}

func must[T any](value T, err error) T {
	if err != nil {
		log.Fatal(err)
	}
	return value
}
