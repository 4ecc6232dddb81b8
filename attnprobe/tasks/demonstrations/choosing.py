"""Which problems are shown: at random, the most similar ones, or one of each cluster."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from random import Random

import numpy as np

from attnprobe.errors import DatasetError
from attnprobe.tasks.demonstrations.candidates import Candidate, passes
from attnprobe.tasks.demonstrations.embedding import Embedder, sentence_embedder
from attnprobe.tasks.demonstrations.settings import METHODS, DemonstrationSettings

__all__ = ["METHODS", "Chooser", "choose_demonstrations", "passes_in_every_style"]


def passes_in_every_style(candidate: Candidate, settings: DemonstrationSettings) -> bool:
    """Tell whether a problem passes the filters in all its styles.

    Records of one item in two styles are shown the same problems that way, and stay a pair.
    """
    return all(
        passes(demonstration, settings.max_question_words, settings.max_steps)
        for demonstration in candidate.by_style.values()
    )


def choose_demonstrations(
    pool: Sequence[Candidate],
    question: str,
    method: str = "cluster",
    k: int = 8,
    seed: int = 0,
    *,
    item: str = "",
    embed: Embedder | None = None,
) -> list[Candidate]:
    """Choose the problems to show before a question.

    Args:
        pool: The problems to choose from (`candidates_of`).
        question: The question that is asked.
        method: `random`, `retrieval` or `cluster`.
        k: How many.
        seed: Seed of random choices and of k-means.
        item: The problem that is asked; it is never chosen.
        embed: Texts to embeddings; the packaged sentence model if None.

    Returns:
        `k` problems. `retrieval`: the most similar first. `cluster`: from the largest cluster to
        the smallest.

    Raises:
        DatasetError: If fewer than `k` problems pass the filters.
    """
    settings = DemonstrationSettings(method, k, seed)
    return Chooser(pool, settings, embed).choose(question, item)


class Chooser:
    """Chooses for many questions; the pool is embedded and clustered once.

    Args:
        pool: The problems to choose from.
        settings: How.
        embed: Texts to embeddings; the packaged sentence model if None and embeddings are needed.
        accept: Which problems may be shown; the paper's filters if None. It is asked only about
            problems that are about to be chosen.
    """

    def __init__(
        self,
        pool: Sequence[Candidate],
        settings: DemonstrationSettings,
        embed: Embedder | None = None,
        accept: Callable[[Candidate], bool] | None = None,
    ) -> None:
        self._pool, self._settings = list(pool), settings
        self._accept = accept or (lambda candidate: passes_in_every_style(candidate, settings))
        self._accepted: dict[int, bool] = {}
        self._rankings: list[list[int]] = []
        self._asked: tuple[str, list[int]] = ("", [])
        if len(self._pool) < settings.k:
            raise self._too_few(len(self._pool), "problems in the pool")
        if settings.method != "random":
            self._embed = embed or sentence_embedder()
            self._points = self._embedded([candidate.question for candidate in self._pool])
        if settings.method == "cluster":
            self._rankings = _rank_clusters(self._points, settings.k, settings.seed)

    def choose(self, question: str, item: str = "") -> list[Candidate]:
        """Choose for one question; `item` is never among what is chosen.

        Raises:
            DatasetError: If too few problems pass the filters.
        """
        k = self._settings.k
        if self._settings.method == "cluster":
            chosen = list(islice(self._from_clusters(item), k))
        else:
            ranking = self._ranking(question, item)
            chosen = list(islice(self._fit(ranking, item), k))
        if len(chosen) < k:
            raise self._too_few(len(chosen), "problems that pass the filters")
        return [self._pool[index] for index in chosen]

    def _ranking(self, question: str, item: str) -> Sequence[int]:
        if self._settings.method == "random":
            order = list(range(len(self._pool)))
            digest = hashlib.sha256(f"{self._settings.seed}/{item or question}".encode()).digest()
            Random(int.from_bytes(digest)).shuffle(order)
            return order
        if question != self._asked[0]:  # the styles of an item follow each other
            similarity = self._points @ self._embedded([question])[0]
            self._asked = question, np.argsort(-similarity, kind="stable").tolist()
        return self._asked[1]

    def _from_clusters(self, item: str) -> Iterator[int]:
        """Take the first of each cluster that fits, then, where one had none, the next of others.

        The paper leaves such a cluster out; the number of demonstrations would then differ between
        records.
        """
        fitting = [self._fit(ranking, item) for ranking in self._rankings]
        while True:
            turn = [index for ranking in fitting if (index := next(ranking, None)) is not None]
            if not turn:
                return
            yield from turn

    def _fit(self, ranking: Iterable[int], item: str) -> Iterator[int]:
        for index in ranking:
            if self._pool[index].item != item and self._is_accepted(index):
                yield index

    def _is_accepted(self, index: int) -> bool:
        if index not in self._accepted:
            self._accepted[index] = self._accept(self._pool[index])
        return self._accepted[index]

    def _embedded(self, texts: Sequence[str]) -> np.ndarray:
        points = np.asarray(self._embed(texts), np.float64)
        if points.ndim != 2 or len(points) != len(texts):
            raise DatasetError(
                "the embedder gave no row for every text", where="embed",
                got=f"an array of shape {points.shape}", expected=f"({len(texts)}, n)",
            )  # fmt: skip
        return points / np.maximum(np.linalg.norm(points, axis=1, keepdims=True), 1e-12)

    def _too_few(self, n_found: int, what: str) -> DatasetError:
        settings = self._settings
        return DatasetError(
            "too few demonstrations", where=f"method '{settings.method}'",
            got=f"{n_found} {what}", expected=f"{settings.k}",
            fix=f"a larger pool, a smaller k, or wider filters (now questions of at most "
            f"{settings.max_question_words} words, {settings.max_steps} steps, the answer in the "
            "rationale)",
        )  # fmt: skip


def _rank_clusters(points: np.ndarray, k: int, seed: int) -> list[list[int]]:
    """Cluster the questions; rank each cluster by distance to its centre, nearest first."""
    from sklearn.cluster import KMeans

    n_different = len(np.unique(points, axis=0))
    clusters = KMeans(
        n_clusters=min(k, n_different),
        random_state=seed,
        n_init=10,  # pyright: ignore[reportArgumentType]
    ).fit(points)
    distance = np.linalg.norm(points - clusters.cluster_centers_[clusters.labels_], axis=1)
    members = [np.flatnonzero(clusters.labels_ == label) for label in range(clusters.n_clusters)]
    members.sort(key=lambda indices: (-len(indices), indices.tolist()))
    return [indices[np.argsort(distance[indices], kind="stable")].tolist() for indices in members]
