"""The parts of a training, and the judgement of what it gave."""
