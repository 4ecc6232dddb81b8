"""How the results are made: data, answers of each model, scores, and the page."""
