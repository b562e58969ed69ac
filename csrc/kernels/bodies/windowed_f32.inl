void linear_windowed_f32(const WindowedF32& weight, const TileF32& tile) {
  weight.window == kF32Window16.window ? windowed_float<GatherF32x16>(weight, tile)
                                       : windowed_float<GatherF32x32>(weight, tile);
}
