// The first n of 16 lanes, where n is nearly always 16.

inline F16 load_lanes(const float* p, int n) { return n == kLanes ? load_f(p) : load_f_part(p, n); }
inline void store_lanes(float* p, const F16& x, int n) {
  n == kLanes ? store_f(p, x) : store_f_part(p, x, n);
}
