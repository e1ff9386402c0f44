"What only the measurements need."
