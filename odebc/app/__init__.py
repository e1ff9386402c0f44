"What only the apps need."
