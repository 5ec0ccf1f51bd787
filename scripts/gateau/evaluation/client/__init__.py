"""A client of servers that speak OpenAI's protocol: calls, cached answers, retries and a budget of tokens."""
