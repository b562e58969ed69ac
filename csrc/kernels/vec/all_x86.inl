// While one lives, SSE and AVX arithmetic takes subnormals as zero and gives zero for them, as
// vdpbf16ps always does (MXCSR bits 15 and 6).

struct FlushSubnormals {
  FlushSubnormals() : saved(_mm_getcsr()) { _mm_setcsr(saved | 0x8040u); }
  ~FlushSubnormals() { _mm_setcsr(saved); }
  FlushSubnormals(const FlushSubnormals&) = delete;
  FlushSubnormals& operator=(const FlushSubnormals&) = delete;
  unsigned saved;
};
