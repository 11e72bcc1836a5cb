"""The definition of interpolated modified Kneser-Ney, with dictionaries and recursion: what the fast version equals."""

from collections import Counter


class PlainKneserNey:
    """p(w | h) of texts, from their n-grams as tuples; each text stands between sos and eos."""

    def __init__(self, texts, n_vocab, sos, eos, order):
        self.n_vocab = n_vocab
        self.raw = Counter()
        for text in texts:
            ids = (sos, *text, eos)
            for n in range(1, order + 1):
                self.raw.update(ids[i : i + n] for i in range(len(ids) - n + 1))
        self.a = {n: {} for n in range(1, order + 1)}
        for gram in self.raw:
            if gram != (sos,):
                self.a[len(gram)][gram] = self.adjusted(gram, order, sos)
        self.discounts = {n: self.discounts_of(n) for n in self.a}

    def adjusted(self, gram, order, sos):
        """A count in the highest order and at the start of a text; else how many tokens come before it."""
        if len(gram) == order or gram[0] == sos:
            return self.raw[gram]
        return sum(longer[1:] == gram for longer in self.raw if len(longer) == len(gram) + 1)

    def discounts_of(self, n):
        n1, n2, n3, n4 = (sum(a == k for a in self.a[n].values()) for k in (1, 2, 3, 4))
        if 0 not in (n1, n2, n3, n4):
            y = n1 / (n1 + 2 * n2)
            found = 1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3
            if all(0 < found[k] <= k + 1 for k in range(3)):
                return found
        return 0.5, 1.0, 1.5

    def p(self, w, h):
        """The probability of w behind the tuple h."""
        n = len(h) + 1
        lower = self.p(w, h[1:]) if h else 1 / self.n_vocab
        after = {gram: a for gram, a in self.a[n].items() if gram[:-1] == h}
        if not after:
            return lower
        total = sum(after.values())
        d = self.discounts[n]
        a = after.get((*h, w), 0)
        backoff = sum(d[min(count, 3) - 1] for count in after.values()) / total
        return (a - (d[min(a, 3) - 1] if a else 0)) / total + backoff * lower
