"""A dynamic ensemble in training: roll-outs, what they are worth, and the objective over them."""
