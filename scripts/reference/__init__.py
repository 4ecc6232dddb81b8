"""How the reference model is made: tokenizer, texts, training, model card."""
