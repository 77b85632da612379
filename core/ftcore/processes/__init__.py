"""Several processes that train together: who this one is, how they start, what they tell each other, how they end."""
