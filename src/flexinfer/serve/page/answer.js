"use strict";
/* One answer: a conversation is sent, its last message grows as the server streams. */
const answer = (() => {
  // A model without a chat template hardly ever ends by itself.
  const FURTHER_TOKENS = 256;

  function withImages(message) {
    if (!message.images?.length) return message.content;
    return [
      ...message.images.map((url) => ({ type: "image_url", image_url: { url } })),
      { type: "text", text: message.content },
    ];
  }

  function chatRequest(conversation, earlier) {
    const messages = earlier.map((one) => ({ role: one.role, content: withImages(one) }));
    if (conversation.system.trim()) messages.unshift({ role: "system", content: conversation.system });
    return ["v1/chat/completions", { messages, stream: true, return_progress: true }];
  }

  /** As `flexinfer chat` writes it: plain lines. `begun` is what the answer has already. */
  function textRequest(conversation, earlier, begun) {
    const texts = [conversation.system.trim(), ...earlier.map((one) => one.content)].filter(Boolean);
    const prompt = texts.map((text) => text + "\n").join("") + begun;
    return ["completion", { prompt, n_predict: FURTHER_TOKENS, stream: true, return_progress: true }];
  }

  function take(message, event) {
    const choice = event.choices?.[0];
    message.content += (choice ? choice.delta?.content : event.content) ?? "";
    if (choice?.delta?.reasoning_content) message.reasoning = (message.reasoning ?? "") + choice.delta.reasoning_content;
    message.progress = event.prompt_progress ?? (message.content || message.reasoning ? null : message.progress);
    if (event.timings) message.timings = event.timings;
    const reason = choice?.finish_reason ?? (event.stop ? event.stop_type : null);
    if (reason) message.ended = reason === "length" || reason === "limit" ? "length" : "whole";
  }

  function note(message, plain) {
    const timings = message.timings;
    delete message.timings;
    delete message.progress;
    const words = timings?.predicted_n ? [
      `${timings.predicted_n} ${timings.predicted_n === 1 ? "token" : "tokens"}`,
      `${sizes.rate(timings.predicted_per_second)} tokens/s`] : [];
    if (message.ended === "stopped") words.unshift("Stopped");
    if (message.ended === "length" && !plain) words.unshift("Cut at the end of its context");
    message.note = words.join(" · ");
  }

  return {
    /** Have the last message of `conversation`, the assistant's, answered.
        `changed` is called as it grows; failing is not an error here: the message has the words. */
    async run(conversation, { plain, signal, changed }) {
      const message = conversation.messages.at(-1);
      const earlier = conversation.messages.slice(0, -1);
      const [path, body] = plain
        ? textRequest(conversation, earlier, message.content) : chatRequest(conversation, earlier);
      delete message.error;
      delete message.ended;
      try {
        const response = await api.call(path, { body, signal });
        for await (const event of api.events(response)) {
          take(message, event);
          changed();
        }
        if (!message.ended) throw new EngineError("The server ended the answer before it was complete.");
      } catch (error) {
        message.ended = "stopped";
        if (error.name !== "AbortError") message.error = error.message;
      }
      note(message, plain);
      changed();
    },
  };
})();
