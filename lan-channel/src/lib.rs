//! The control channel and the data channel of a network segment.
