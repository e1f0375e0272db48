"""Inference: batched decoding with a KV cache, sampling, beam search, and the text around them."""
