// The headers in this folder stand for those of Gloo, which libtorch contains but whose headers it
// does not ship. They declare what ProcessGroupGloo.hpp names, and no more; only shared and unique
// pointers to these types are members there, so the layout of its classes is right. They are true
// to the Gloo of libtorch 2.11 and used with no other (see dist.cpp).
#pragma once
