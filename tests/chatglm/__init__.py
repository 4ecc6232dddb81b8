"""Models and tokenizers that follow the published conventions of ChatGLM-6B, 2 and 3, tiny."""
