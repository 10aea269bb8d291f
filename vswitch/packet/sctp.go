package packet

// Chunk types of SCTP that change an association (RFC 9260 section 3.2).
const (
	ChunkInit             = 1
	ChunkInitAck          = 2
	ChunkAbort            = 6
	ChunkShutdown         = 7
	ChunkShutdownAck      = 8
	ChunkCookieEcho       = 10
	ChunkCookieAck        = 11
	ChunkShutdownComplete = 14
)

// controlChunks has a bit for each of them.
const controlChunks = 1<<ChunkInit | 1<<ChunkInitAck | 1<<ChunkAbort | 1<<ChunkShutdown | 1<<ChunkShutdownAck |
	1<<ChunkCookieEcho | 1<<ChunkCookieAck | 1<<ChunkShutdownComplete
