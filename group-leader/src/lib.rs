//! The group leader: stores and forwards assignments, leads its network segment, reports to the content control manager
