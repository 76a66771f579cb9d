//! Decoder-only transformers from Hugging Face folders: packed forward, key-value cache, saving
