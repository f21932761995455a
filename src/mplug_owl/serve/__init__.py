"""OpenAI's interface to models: requests in, words out, and a lock before it."""
