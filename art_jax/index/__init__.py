"""The sharded embedding table: exact top-K, embedding, refresh, BM25."""
