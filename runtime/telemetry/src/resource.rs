//! Who is speaking: the resource of every signal.
