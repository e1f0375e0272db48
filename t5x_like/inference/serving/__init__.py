"""An HTTP server of OpenAI's completions and chat endpoints, over a continuous batch."""
