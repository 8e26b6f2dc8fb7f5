"""The learner of n-grams: a linear classifier on TF-IDF of words, parts of words or characters.

    learner       the classifier: fit (on as many rows as there are time and memory for), answer, save, load
    reading       texts as tokens, n-grams as integer keys
    counting      counts, vocabulary and TF-IDF
    solving       SVMs, exactly or by passes, and probabilities of their margins
    ngram_files   what a model is saved as

May import what `learners` may.
"""
