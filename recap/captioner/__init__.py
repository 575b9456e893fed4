"""Our own captioner: model, tokenizer, objective, decoding and its folder on disk."""
